//! What the hardware does to a call, for [`tdx_call::backend::Faulty`].

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use tdx_call::backend::Disturbance;

use crate::Platform;

/// The vector of an interrupt that disturbs a call: a device's.
const DEVICE_VECTOR: u8 = 0x51;

impl Platform {
    /// A hand on processor `lp` and on the memory, as `Faulty::on` takes one.
    pub fn disturber(self: &Arc<Self>, lp: u32) -> impl FnMut(Disturbance) + Send + use<> {
        let platform = Arc::clone(self);
        move |what| platform.disturb(lp, what)
    }

    fn disturb(&self, lp: u32, what: Disturbance) {
        let deaf = &self.module.machine().deaf;
        let bit = 1 << (lp % 64);
        match what {
            Disturbance::InterruptArrives => self.hardware().interrupt(lp, DEVICE_VECTOR),
            Disturbance::InterruptTaken => self.hardware().retract_interrupt(lp, DEVICE_VECTOR),
            Disturbance::Poison(page) => self.hardware().memory.poison_page(page),
            Disturbance::FlushesLost => {
                deaf.fetch_or(bit, SeqCst);
            }
            Disturbance::FlushesWork => {
                deaf.fetch_and(!bit, SeqCst);
            }
        }
    }
}
