//! Every TDVMCALL mask through the direct backend. `tdx_trap` runs the same rules through the machine code.

mod fake_td;
#[path = "fake_td/rules.rs"]
mod rules;

use fake_td::FakeTd;
use proptest::prelude::*;
use rules::{Behind, a_mask_crosses_exactly, an_illegal_mask_makes_no_exit, legal_masks};
use std::cell::RefCell;
use std::rc::Rc;
use tdx_call::{Direct, NoSeam, SoftwareSeam};

#[derive(Clone)]
struct Shared(Rc<RefCell<FakeTd>>);

impl SoftwareSeam for Shared {
    fn seamcall(
        &mut self,
        gprs: &mut coco_regs::GprFile,
        xmms: &mut coco_regs::XmmFile,
    ) -> Result<(), NoSeam> {
        self.0.borrow_mut().seamcall(gprs, xmms)
    }
}
impl Behind for Shared {
    fn td<R>(&mut self, look: impl FnOnce(&mut FakeTd) -> R) -> R {
        look(&mut self.0.borrow_mut())
    }
}

fn ways(no_rbp_mod: bool) -> (Direct<Shared>, Shared) {
    let td = Shared(Rc::new(RefCell::new(FakeTd::new(no_rbp_mod))));
    (Direct(td.clone()), td)
}

#[test]
fn every_legal_mask_crosses_exactly() {
    for (no_rbp_mod, count) in [(true, 4096), (false, 8192)] {
        let (mut lp, mut td) = ways(no_rbp_mod);
        assert_eq!(legal_masks(no_rbp_mod).count(), count);
        for mask in legal_masks(no_rbp_mod) {
            a_mask_crosses_exactly(&mut lp, &mut td, mask);
        }
    }
}

#[test]
fn every_illegal_mask_is_refused_to_the_guest() {
    for no_rbp_mod in [true, false] {
        let (mut lp, mut td) = ways(no_rbp_mod);
        let legal: Vec<_> = legal_masks(no_rbp_mod).collect();
        let illegal = (0..0x1_0000u32).filter(|mask| legal.binary_search(mask).is_err());
        let above = (32..64).map(|bit| 1u64 << bit);
        for rcx in illegal.map(u64::from).chain(above) {
            an_illegal_mask_makes_no_exit(&mut lp, &mut td, rcx);
        }
    }
}

proptest! {
    #[test]
    fn any_xmm_subset_crosses_exactly(xmm: u16, gpr in 0..8192usize) {
        let (mut lp, mut td) = ways(false);
        let mask = legal_masks(false).nth(gpr).expect("8192 masks");
        a_mask_crosses_exactly(&mut lp, &mut td, mask | u32::from(xmm) << 16);
    }
}
