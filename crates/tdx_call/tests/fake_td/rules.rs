//! The register rules as every way to call must keep them; `lp` is that way, `td` gives access to the fake TD behind it.

use coco_regs::{Exit, ExitWords, GprFile, XmmFile};
use tdx_abi::{OperandId, Status};
use tdx_call::{LastExit, NoSeam, SeamcallLp, Tdvpr, VpEntry};
use x86_arch::{Gpr, Hpa};

use super::fake_td::{FakeTd, Next};

/// The fake TD behind a way to call.
pub trait Behind {
    fn td<R>(&mut self, look: impl FnOnce(&mut FakeTd) -> R) -> R;
}

fn sentinels() -> (GprFile, XmmFile) {
    (
        GprFile(std::array::from_fn(|n| 0x7E57_0000_0000 + n as u64)),
        XmmFile(std::array::from_fn(|n| (0x7E57_u128 << 96) + n as u128)),
    )
}

/// One TDVMCALL with `mask` and its answer: selected registers cross both ways, the others neither.
pub fn a_mask_crosses_exactly(lp: &mut impl SeamcallLp, behind: &mut impl Behind, mask: u32) {
    let (mut file, mut vectors) = sentinels();
    let (host, host_xmm) = (file, vectors);
    let mut entry = VpEntry::new(
        Tdvpr(Hpa::new(FakeTd::TDVPR)),
        &mut file,
        Some(&mut vectors),
    );
    let (guest, guest_xmm) = behind.td(|td| {
        td.next = Next::Tdvmcall(mask.into());
        td.waiting = false;
        (td.guest, td.guest_xmm)
    });
    assert_eq!(lp.vp_enter(&mut entry), Ok(Status(77)), "{mask:#x}");
    let Exit::Tdvmcall(mut call) = entry.exit() else {
        panic!("a TDVMCALL")
    };
    assert_eq!(call.mask.bits(), mask);
    let selected = |n: usize| mask >> n & 1 != 0;
    for reg in Gpr::ALL {
        let expected = selected(reg.index()).then_some(guest[reg]);
        assert_eq!(call.gprs.get(reg).ok(), expected, "{mask:#x} {reg}");
        let set = call.gprs.set(reg, 0xA11_0000 + reg.index() as u64);
        assert_eq!(set.is_ok(), selected(reg.index()));
    }
    // The file beside the window is the VMM's own: untouched, and without effect on the guest.
    let (file, vectors) = entry.files();
    let vectors = vectors.expect("given");
    for n in 0..16 {
        if !selected(n) {
            assert_eq!(file.0[n], host.0[n], "{mask:#x} register {n}");
        }
        if selected(16 + n) {
            assert_eq!(vectors.0[n], guest_xmm.0[n]);
            vectors.0[n] = (0xA11 << 64) + n as u128;
        } else {
            assert_eq!(vectors.0[n], host_xmm.0[n]);
        }
    }

    // Attempts that fail change nothing, and the answer is delivered again on the next.
    let before = (*file, *vectors);
    for (next, result) in [
        (
            Next::Refused(Status::OPERAND_BUSY.with_operand(OperandId::TD_EPOCH)),
            Ok(Status::OPERAND_BUSY.with_operand(OperandId::TD_EPOCH)),
        ),
        (
            Next::NoSeam(NoSeam::VmFailInvalid),
            Err(NoSeam::VmFailInvalid),
        ),
    ] {
        behind.td(|td| td.next = next);
        assert_eq!(lp.vp_enter(&mut entry), result);
        assert!(matches!(entry.exit(), Exit::NotEntered(_)));
        assert_eq!(entry.last(), last(mask));
        let (file, vectors) = entry.files();
        assert_eq!((*file, *vectors.expect("given")), before);
        behind.td(|td| assert!(td.waiting));
    }

    behind.td(|td| td.next = Next::Asynchronous([48, 0x182, 6, 0x1234_5000, 0]));
    assert_eq!(lp.vp_enter(&mut entry), Ok(Status(48)));
    let words = ExitWords {
        rax: Status(48),
        rcx: 0x182,
        rdx: 6,
        r8: 0x1234_5000,
        r9: 0,
    };
    assert_eq!(entry.words(), words);
    assert_eq!(entry.last(), LastExit::Asynchronous);
    let (file, vectors) = entry.files();
    assert_eq!(
        (*file, *vectors.expect("given")),
        before,
        "an asynchronous exit stores none"
    );
    behind.td(|td| {
        for n in 0..16 {
            let expected = match n {
                0 => 0,
                1 => mask.into(),
                _ if selected(n) => 0xA11_0000 + n as u64,
                _ => guest.0[n],
            };
            assert_eq!(td.guest.0[n], expected, "{mask:#x} guest register {n}");
            let expected = if selected(16 + n) {
                (0xA11 << 64) + n as u128
            } else {
                guest_xmm.0[n]
            };
            assert_eq!(td.guest_xmm.0[n], expected);
        }
        // For the next mask.
        td.guest = guest;
        td.guest_xmm = guest_xmm;
    });
}

fn last(mask: u32) -> LastExit {
    match mask {
        0 => LastExit::Asynchronous,
        mask => LastExit::Tdvmcall { mask },
    }
}

/// Every legal mask of general-purpose registers.
pub fn legal_masks(no_rbp_mod: bool) -> impl Iterator<Item = u32> {
    let refused = if no_rbp_mod { 0x33 } else { 0x13 };
    (0..0x1_0000).filter(move |mask| mask & refused == 0)
}

/// An illegal mask is answered to the guest and makes no TDVMCALL exit.
pub fn an_illegal_mask_makes_no_exit(lp: &mut impl SeamcallLp, behind: &mut impl Behind, rcx: u64) {
    let (mut file, _) = sentinels();
    let host = file;
    let mut entry = VpEntry::new(Tdvpr(Hpa::new(FakeTd::TDVPR)), &mut file, None);
    behind.td(|td| td.next = Next::Tdvmcall(rcx));
    assert_eq!(
        lp.vp_enter(&mut entry),
        Ok(Status(12)),
        "{rcx:#x}: the guest goes on, here to HLT"
    );
    assert!(matches!(entry.exit(), Exit::Opaque(_)));
    assert_eq!(*entry.files().0, host);
    behind.td(|td| {
        let invalid = Status::OPERAND_INVALID.with_operand(OperandId::RCX);
        assert_eq!(td.guest[Gpr::Rax], invalid.0);
        assert!(!td.waiting);
    });
}
