//! The same life of a TD, once calling the platform directly and once through the machine code and its faults: every
//! call, every register that crossed and every result are the same. On the way the guest tries every TDVMCALL mask.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use coco_regs::{Exit, GprFile, XmmFile};
use tdx_abi::{OperandId, Status};
use tdx_call::backend::{Recorded, Traced};
use tdx_call::{Direct, SeamcallLp, VpEntry};
use tdx_host::{Host, HostLayout, Lp, Td, TdConfig};
use tdx_platform::{Guests, Platform, PlatformConfig, PlatformLp, ScriptCpu};
use tdx_trap::{OnHost, Trap};
use x86_arch::Gpr;

const GIB: u64 = 1 << 30;

/// What the guest found wrong, and how many masks it went through.
type Findings = Arc<Mutex<(Vec<String>, u32)>>;

/// The masks of one life: every one of general-purpose registers or a part, each with some XMM registers.
#[derive(Clone, Copy)]
struct Masks {
    no_rbp_mod: bool,
    /// Every nth.
    step: usize,
}

impl Masks {
    fn refused(self) -> u64 {
        if self.no_rbp_mod { 0x33 } else { 0x13 }
    }
    fn all(self) -> impl Iterator<Item = u64> {
        (0..0x1_0000u64)
            .filter(move |gprs| gprs & self.refused() == 0)
            .step_by(self.step)
            .map(|gprs| gprs | (gprs.wrapping_mul(0x9E37) & 0xFFFF) << 16)
    }
    fn illegal(self) -> impl Iterator<Item = u64> {
        let bits = (0..16).chain(32..64).map(|bit| 1 << bit);
        bits.filter(move |mask| mask & (self.refused() | 0xFFFF_FFFF_0000_0000) != 0)
    }
}

fn guest_value(reg: usize, mask: u64) -> u64 {
    0x6E57_0000_0000_0000 | mask << 8 | reg as u64
}
fn answer(reg: usize, mask: u64) -> u64 {
    0xA115_0000_0000_0000 | mask << 8 | reg as u64
}

/// The guest: a TDVMCALL with each mask, and a look at every register after it.
fn script(cpu: &mut ScriptCpu, masks: Masks, findings: &Findings) {
    let note = |what: String| findings.lock().expect("no panic").0.push(what);
    for mask in masks.illegal() {
        cpu.set_gpr(Gpr::Rax, 0);
        cpu.set_gpr(Gpr::Rcx, mask);
        let done = cpu.tdcall_instruction();
        let invalid = Status::OPERAND_INVALID.with_operand(OperandId::RCX).0;
        if done.is_err() || cpu.gpr(Gpr::Rax) != invalid || cpu.gpr(Gpr::Rcx) != mask {
            note(format!("{mask:#x}: RAX {:#x}, {done:?}", cpu.gpr(Gpr::Rax)));
        }
    }
    for mask in masks.all() {
        for reg in Gpr::ALL.into_iter().filter(|&reg| reg != Gpr::Rsp) {
            cpu.set_gpr(reg, guest_value(reg.index(), mask));
        }
        for n in 0..16 {
            *cpu.xmm(n) = guest_value(n, mask).into();
        }
        cpu.set_gpr(Gpr::Rax, 0);
        cpu.set_gpr(Gpr::Rcx, mask);
        let rsp = cpu.gpr(Gpr::Rsp);
        if cpu.tdcall_instruction().is_err() {
            note(format!("{mask:#x}: an exception"));
        }
        for reg in Gpr::ALL {
            let expected = match reg {
                Gpr::Rax => 0,
                Gpr::Rcx => mask,
                Gpr::Rsp => rsp,
                _ if mask >> reg.index() & 1 != 0 => answer(reg.index(), mask),
                _ => guest_value(reg.index(), mask),
            };
            if cpu.gpr(reg) != expected {
                note(format!(
                    "{mask:#x}: {reg} {:#x}, not {expected:#x}",
                    cpu.gpr(reg)
                ));
            }
        }
        for n in 0..16 {
            let selected = mask >> (16 + n) & 1 != 0;
            let expected: u128 = if selected {
                answer(n, mask)
            } else {
                guest_value(n, mask)
            }
            .into();
            if *cpu.xmm(n) != expected {
                note(format!(
                    "{mask:#x}: XMM{n} {:#x}, not {expected:#x}",
                    cpu.xmm(n)
                ));
            }
        }
        findings.lock().expect("no panic").1 += 1;
    }
    for reg in [Gpr::R10, Gpr::R11] {
        cpu.set_gpr(reg, guest_value(reg.index(), DONE));
    }
    cpu.set_gpr(Gpr::Rax, 0);
    cpu.set_gpr(Gpr::Rcx, DONE);
    let _ = cpu.tdcall_instruction();
}

/// The mask of the guest's last TDVMCALL.
const DONE: u64 = 0xC00;

/// The VMM's part of it: before each entry every register of its files holds the answer, selected or not.
fn serve(lp: &mut impl SeamcallLp, entry: &mut VpEntry<'_>, masks: Masks) {
    let mut before = 0;
    for mask in masks.all().chain([DONE]) {
        let (file, vectors) = entry.files();
        let vectors = vectors.expect("given");
        for n in 0..16 {
            file.0[n] = answer(n, before);
            vectors.0[n] = answer(n, before).into();
        }
        assert_eq!(lp.vp_enter(entry), Ok(Status(77)), "{mask:#x}");
        let Exit::Tdvmcall(call) = entry.exit() else {
            panic!("{mask:#x}: no TDVMCALL")
        };
        assert_eq!(u64::from(call.mask.bits()), mask);
        for reg in Gpr::ALL {
            let shown = (mask >> reg.index() & 1 != 0).then(|| guest_value(reg.index(), mask));
            assert_eq!(call.gprs.get(reg).ok(), shown, "{mask:#x} {reg}");
        }
        let (file, vectors) = entry.files();
        let vectors = vectors.expect("given");
        for n in 0..16 {
            if mask >> n & 1 == 0 {
                let own = answer(n, before);
                assert_eq!(file.0[n], own, "{mask:#x}: register {n} of the VMM");
            }
            let shown = mask >> (16 + n) & 1 != 0;
            let expected = if shown {
                guest_value(n, mask)
            } else {
                answer(n, before)
            };
            assert_eq!(
                vectors.0[n],
                expected.into(),
                "{mask:#x}: XMM{n} of the VMM"
            );
        }
        before = mask;
    }
}

/// From bring-up to teardown; `way` makes the processor that is called out of the platform's.
fn life<L: SeamcallLp>(masks: Masks, way: impl FnOnce(Direct<PlatformLp>) -> L) -> Vec<Recorded> {
    let findings = Findings::default();
    let (known, noted) = (masks, findings.clone());
    let guests = Guests::scripted(move |cpu: &mut ScriptCpu| script(cpu, known, &noted));
    let config = PlatformConfig::new(1, 1, 2 * GIB);
    let (first, last) = config.machine.private_key_ids;
    let layout = HostLayout {
        memory: std::iter::once(GIB / 4..2 * GIB).collect(),
        private_keys: first..last + 1,
        keyid_bits: 6,
    };
    let platform = Platform::new(config, guests);
    let recording = Rc::new(RefCell::new(Vec::new()));
    let sink = recording.clone();
    let seam = way(platform.lp(0).expect("a processor"));
    let seam = Traced::new(seam, move |call: &Recorded| sink.borrow_mut().push(*call));
    let mut lps = [Lp { seam, package: 0 }];
    let host = Host::bring_up(platform.memory(), &layout, &mut lps).expect("bring-up");
    let free = host.free_pages();
    let config = TdConfig {
        no_rbp_mod: masks.no_rbp_mod,
        ..TdConfig::default()
    };
    let td = Td::create(&host, &mut lps, config, || {}).expect("a TD");
    let vcpu = td.add_vcpu(&host, &mut lps, 0, 0).expect("a vCPU");
    td.finalize(&mut lps[0].seam).expect("finalized");

    let (mut file, mut vectors) = (GprFile::default(), XmmFile::default());
    let mut entry = VpEntry::new(vcpu.tdvpr(), &mut file, Some(&mut vectors));
    serve(&mut lps[0].seam, &mut entry, masks);

    td.destroy(&host, &mut lps, vec![vcpu]).expect("teardown");
    assert_eq!(host.free_pages(), free, "every page came back");
    let (wrong, tried) = std::mem::take(&mut *findings.lock().expect("no panic"));
    assert!(wrong.is_empty(), "the guest found: {}", wrong.join("\n"));
    assert_eq!(tried as usize, masks.all().count());
    drop(lps);
    Rc::into_inner(recording)
        .expect("the only one")
        .into_inner()
}

fn both_ways(masks: Masks) {
    let direct = life(masks, |lp| lp);
    let mut trap = None;
    let trapped = life(masks, |lp| {
        trap.insert(Trap::install(OnHost(lp.0)).expect("a trap"))
            .lp()
    });
    assert!(
        direct.len() > masks.all().count() + 40,
        "{} calls",
        direct.len()
    );
    assert_eq!(direct.len(), trapped.len());
    for (n, (a, b)) in direct.iter().zip(&trapped).enumerate() {
        assert_eq!(a, b, "call {n}: {a}\n{b}");
    }
}

#[test]
fn every_mask_of_a_td_with_no_rbp_mod_crosses_exactly_and_both_ways_are_the_same() {
    both_ways(Masks {
        no_rbp_mod: true,
        step: 1,
    });
}

#[test]
fn every_mask_of_a_td_without_no_rbp_mod_crosses_exactly_and_both_ways_are_the_same() {
    both_ways(Masks {
        no_rbp_mod: false,
        step: 1,
    });
}
