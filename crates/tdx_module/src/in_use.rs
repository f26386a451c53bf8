//! What TDs hold of the module: pages, key IDs, processors. Empty when every TD is gone, so a leak shows.

use crate::kot::HkidState;
use crate::machine::Machine;
use crate::module::Module;
use crate::pamt::{PageSize, PageType, PageUse};
use crate::vp::NO_LP;
use alloc::vec::Vec;
use x86_arch::{Hkid, Hpa};

/// What is in use; taken while no call is in progress.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct InUse {
    pub pages: Vec<PageInUse>,
    /// Key IDs of TDs, those that are being freed included.
    pub hkids: Vec<Hkid>,
    /// TDVPR pages of the vCPUs that a processor has, and its number.
    pub associated: Vec<(Hpa, u32)>,
}

/// A page that the module has for a TD.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageInUse {
    pub hpa: Hpa,
    pub size: PageSize,
    pub page_type: PageType,
    /// The TDR of the TD; of a TDR itself nothing.
    pub owner: Hpa,
}

impl<M: Machine> Module<M> {
    /// All that TDs hold.
    pub fn in_use(&self) -> InUse {
        let mut found = InUse::default();
        let Some(pamt) = self.pamt.get() else {
            return found;
        };
        pamt.for_each(|hpa, size, entry| {
            let Some(page) = entry.lock().peek() else {
                return;
            };
            if let PageUse::Tdvpr(vp) = &*page
                && vp.assoc_lpid() != NO_LP
            {
                found.associated.push((hpa, vp.assoc_lpid()));
            }
            let page_type = page.page_type();
            if !matches!(page_type, PageType::Nda | PageType::Rsvd) {
                found.pages.push(PageInUse {
                    hpa,
                    size,
                    page_type,
                    owner: entry.owner(),
                });
            }
        });
        if let Ok(kot) = self.kot.shared() {
            for state in [HkidState::Assigned, HkidState::Flushed] {
                found.hkids.extend(kot.in_state(state));
            }
        }
        let global = self.global_hkid();
        found.hkids.retain(|hkid| Ok(*hkid) != global);
        found
    }
}

impl InUse {
    /// Whether no TD holds anything.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty() && self.hkids.is_empty() && self.associated.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;
    use tdx_abi::HostLeaf;
    use x86_arch::Gpr;

    #[test]
    fn a_td_holds_pages_a_key_and_a_processor() {
        let mut world = World::ready(1);
        assert!(world.module.in_use().is_empty());
        let td = world.td(33);
        let tdvpr = world.vcpu(td, 0);
        let in_use = world.module.in_use();
        assert_eq!(in_use.hkids, [Hkid(33)]);
        assert_eq!(in_use.associated, [(Hpa::new(tdvpr), 0)]);
        let tdrs = in_use
            .pages
            .iter()
            .filter(|page| page.page_type == PageType::Tdr);
        assert_eq!(
            tdrs.map(|page| page.hpa.raw()).collect::<Vec<_>>(),
            [td.tdr]
        );
        world.ok(0, HostLeaf::VP_FLUSH, &[(Gpr::Rcx, tdvpr)]);
        assert!(world.module.in_use().associated.is_empty());
    }
}
