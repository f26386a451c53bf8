//! What the hardware does to a call, for [`tdx_call::backend::Faulty`], and what its TLB tracking finds of it.

use std::sync::{Arc, PoisonError};

use tdx_call::backend::Disturbance;
use tdx_module::audit::Violation;
use tdx_module::{LpId, Machine};
use x86_arch::Hpa;

use crate::Platform;

/// The vector of an interrupt that disturbs a call: a device's.
const DEVICE_VECTOR: u8 = 0x51;
/// How many different findings are kept.
const FINDINGS: usize = 16;

/// A translation that a lost flush left usable although the page behind it is no longer the TD's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StaleTranslation {
    pub tdr: Hpa,
    /// The processor that holds it.
    pub lp: u32,
    pub page: Hpa,
}

impl Platform {
    /// A hand on processor `lp` and on the memory, as `Faulty::on` takes one.
    pub fn disturber(self: &Arc<Self>, lp: u32) -> impl FnMut(Disturbance) + Send + use<> {
        let platform = Arc::clone(self);
        move |what| platform.disturb(lp, what)
    }

    /// What was found after lost flushes; the first few.
    pub fn stale_translations(&self) -> Vec<StaleTranslation> {
        let found = self.stale.lock();
        found.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn disturb(&self, lp: u32, what: Disturbance) {
        match what {
            Disturbance::InterruptArrives => self.hardware().interrupt(lp, DEVICE_VECTOR),
            Disturbance::InterruptTaken => self.hardware().retract_interrupt(lp, DEVICE_VECTOR),
            Disturbance::Poison(page) => self.hardware().memory.poison_page(page),
            Disturbance::FlushesLost => {
                self.deaf().insert(LpId(lp), Vec::new());
            }
            Disturbance::FlushesWork => {
                let missed = self.deaf().remove(&LpId(lp)).unwrap_or_default();
                if !missed.is_empty() && self.find_stale(LpId(lp)) {
                    // The flush comes late, so that each loss is found by itself.
                    self.module
                        .machine()
                        .invalidate_translations(LpId(lp), &missed);
                }
            }
        }
    }

    fn deaf(&self) -> std::sync::MutexGuard<'_, std::collections::BTreeMap<LpId, Vec<u16>>> {
        let deaf = self.module.machine().deaf.lock();
        deaf.unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what processor `on` could still use; whether there was anything.
    fn find_stale(&self, on: LpId) -> bool {
        let mut any = false;
        let mut stale = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        for rule in self.module.audit() {
            let Violation::Translation { tdr, lp, page } = rule else {
                continue;
            };
            let found = StaleTranslation {
                tdr,
                lp: lp.0,
                page,
            };
            any |= lp == on;
            if lp == on && stale.len() < FINDINGS && !stale.contains(&found) {
                stale.push(found);
            }
        }
        any
    }
}
