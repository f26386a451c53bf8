//! The register context of a DEBUG TD: what the debugger writes the guest finds, and what the guest leaves the
//! debugger reads, register by register and after each kind of exit.

mod life;

use std::sync::{Arc, Mutex, PoisonError};

use life::{Bench, MIB};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tdx_abi::Status;
use tdx_call::{Direct, LastExit};
use tdx_host::debug::{
    DebugContext, DebugError, DebugMemory, DebugReg as R, SegPart, Stopped, enable_exits,
};
use tdx_host::{Lp, Td, TdConfig, Vcpu};
use tdx_platform::{Guests, PlatformLp, PlatformMemory};
use x86_arch::vmx::{Registers, Seg, Segment};
use x86_arch::{ExitReason, Gpr, VmExit};

/// What the guest does between an entry and the exit after it.
#[derive(Default)]
struct Act {
    exit: VmExit,
    /// Registers as the guest found them.
    found: Option<Registers>,
    /// Registers that it leaves behind.
    leaves: Vec<(R, u64)>,
}

/// The register in the processor's own state.
fn place(regs: &mut Registers, reg: R) -> Option<&mut u64> {
    Some(match reg {
        R::Gpr(gpr) => &mut regs.gpr[gpr.index()],
        R::Rip => &mut regs.rip,
        R::Rflags => &mut regs.rflags,
        R::Cr2 => &mut regs.cr2,
        R::Cr3 => &mut regs.cr3,
        R::Dr(n) => &mut regs.dr[usize::from(n)],
        R::Dr7 => &mut regs.dr7,
        R::Cr0 => &mut regs.cr0,
        R::Cr4 => &mut regs.cr4,
        R::Dr6 => &mut regs.dr6,
        R::Efer => &mut regs.msr.efer,
        R::Pat => &mut regs.msr.pat,
        R::Star => &mut regs.msr.star,
        R::Lstar => &mut regs.msr.lstar,
        R::Fmask => &mut regs.msr.fmask,
        R::KernelGsBase => &mut regs.msr.kernel_gs_base,
        R::TscAux => &mut regs.msr.tsc_aux,
        R::SysenterCs => &mut regs.msr.sysenter_cs,
        R::SysenterEsp => &mut regs.msr.sysenter_esp,
        R::SysenterEip => &mut regs.msr.sysenter_eip,
        R::GdtrBase => &mut regs.gdtr.base,
        R::IdtrBase => &mut regs.idtr.base,
        R::Segment(seg, SegPart::Base) => &mut regs.segments[seg as usize].base,
        R::Tr(SegPart::Base) => &mut regs.tr.base,
        R::Ldtr(SegPart::Base) => &mut regs.ldtr.base,
        _ => return None,
    })
}

/// The XMM register and its half that a word of the XSAVES image holds.
fn xmm(word: u16) -> Option<(usize, u32)> {
    let half = word.checked_sub(20).filter(|&half| half < 32)?;
    Some((usize::from(half / 2), u32::from(half % 2) * 64))
}

fn read(regs: &mut Registers, reg: R) -> u64 {
    if let R::Xbuff(word) = reg {
        let (number, shift) = xmm(word).unwrap_or_else(|| panic!("{reg}"));
        return (regs.fpu.ymm[number][0] >> shift) as u64;
    }
    let segment = |segment: &Segment, part| match part {
        SegPart::Selector => segment.selector.into(),
        SegPart::Limit => segment.limit.into(),
        SegPart::Access => segment.access.into(),
        SegPart::Base => segment.base,
    };
    match reg {
        R::Segment(seg, part) => segment(&regs.segments[seg as usize], part),
        R::Tr(part) => segment(&regs.tr, part),
        R::Ldtr(part) => segment(&regs.ldtr, part),
        R::GdtrLimit => regs.gdtr.limit.into(),
        R::IdtrLimit => regs.idtr.limit.into(),
        reg => *place(regs, reg).unwrap_or_else(|| panic!("{reg}")),
    }
}

fn leave(regs: &mut Registers, reg: R, value: u64) {
    if let R::Xbuff(word) = reg {
        let (number, shift) = xmm(word).unwrap_or_else(|| panic!("{reg}"));
        let register = &mut regs.fpu.ymm[number][0];
        *register = *register & !(u128::from(u64::MAX) << shift) | u128::from(value) << shift;
        return;
    }
    let set = |segment: &mut Segment, part| match part {
        SegPart::Selector => segment.selector = value as u16,
        SegPart::Limit => segment.limit = value as u32,
        SegPart::Access => segment.access = value as u32,
        SegPart::Base => segment.base = value,
    };
    match reg {
        R::Segment(seg, part) => set(&mut regs.segments[seg as usize], part),
        R::Tr(part) => set(&mut regs.tr, part),
        R::Ldtr(part) => set(&mut regs.ldtr, part),
        R::GdtrLimit => regs.gdtr.limit = value as u16,
        R::IdtrLimit => regs.idtr.limit = value as u16,
        reg => *place(regs, reg).unwrap_or_else(|| panic!("{reg}")) = value,
    }
}

/// The bits that the register keeps of any value.
fn bits(reg: R) -> u64 {
    match reg {
        // TF and the like would be the guest's own business here; bit 1 is always 1.
        R::Rflags => 0x0CD5,
        R::Dr7 => 0xFFFF_00FF,
        R::Segment(_, SegPart::Selector)
        | R::Tr(SegPart::Selector)
        | R::Ldtr(SegPart::Selector) => 0xFFFF,
        R::GdtrLimit | R::IdtrLimit => 0xFFFF,
        R::Segment(_, SegPart::Limit) | R::Tr(SegPart::Limit) | R::Ldtr(SegPart::Limit) => {
            0xFFFF_FFFF
        }
        R::Cr3 => 0x000F_FFFF_FFFF_F018 & 0x0000_7FFF_FFFF_FFFF,
        _ => u64::MAX,
    }
}

fn always(reg: R) -> u64 {
    match reg {
        R::Rflags => 2,
        R::Dr7 => 0x400,
        R::Dr6 => 0xFFFF_0FF0,
        // PE, ET, NE, PG; MCE, VMXE; LME, LMA.
        R::Cr0 => 0x8000_0031,
        R::Cr4 => 0x2040,
        R::Efer => 0x500,
        _ => 0,
    }
}

/// Every register that both sides can set to any value.
fn registers() -> Vec<R> {
    let segs = [Seg::Es, Seg::Cs, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs];
    let parts = [SegPart::Selector, SegPart::Base, SegPart::Limit];
    let mut all: Vec<R> = Gpr::ALL.into_iter().map(R::Gpr).collect();
    all.extend([
        R::Rip,
        R::Rflags,
        R::Cr2,
        R::Cr3,
        R::Dr(0),
        R::Dr(1),
        R::Dr(2),
        R::Dr(3),
        R::Dr7,
        R::SysenterEsp,
        R::SysenterEip,
        R::GdtrBase,
        R::GdtrLimit,
        R::IdtrBase,
        R::IdtrLimit,
    ]);
    for part in parts {
        all.extend(segs.map(|seg| R::Segment(seg, part)));
        all.extend([R::Tr(part), R::Ldtr(part)]);
    }
    all
}

/// An exit that only a debugger arranges.
const MOV_DR: ExitReason = ExitReason(29);

/// The exits after which the debugger looks.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Exception,
    EptViolation,
    Unexpected,
    Interrupt,
    TripleFault,
    /// With this mask.
    Tdvmcall(u16),
}

fn exit(kind: Kind) -> VmExit {
    match kind {
        Kind::Exception => VmExit {
            interruption_info: 0x8000_0301,
            qualification: 0x4000,
            ..VmExit::new(ExitReason::EXCEPTION_OR_NMI)
        },
        Kind::EptViolation => VmExit {
            qualification: 2,
            guest_physical_address: 0x4000_0000,
            ..VmExit::new(ExitReason::EPT_VIOLATION)
        },
        Kind::Unexpected => VmExit::new(MOV_DR),
        Kind::Interrupt => VmExit {
            interruption_info: 0x8000_00EC,
            ..VmExit::new(ExitReason::INTERRUPT)
        },
        Kind::TripleFault => VmExit::new(ExitReason::TRIPLE_FAULT),
        Kind::Tdvmcall(_) => VmExit {
            instruction_length: 4,
            ..VmExit::new(ExitReason::TDCALL)
        },
    }
}

struct World {
    bench: Bench,
    td: Td,
    vcpu: Vcpu,
    act: Arc<Mutex<Act>>,
    context: DebugContext,
}

type Seam = Direct<PlatformLp>;

impl World {
    fn new(debug: bool) -> World {
        let act = Arc::new(Mutex::new(Act::default()));
        let guests = {
            let act = Arc::clone(&act);
            Guests::stepped(move |vcpu| {
                let mut act = act.lock().unwrap_or_else(PoisonError::into_inner);
                act.found = Some(vcpu.regs.clone());
                // TDCALL is an instruction of 64-bit mode.
                vcpu.regs.msr.efer |= 0x500;
                vcpu.regs.segments[Seg::Cs as usize].access = 0xA09B;
                for (reg, value) in act.leaves.drain(..) {
                    leave(&mut vcpu.regs, reg, value);
                }
                vcpu.exit = act.exit;
            })
        };
        let mut bench = Bench::new(1, 1, 64 * MIB, guests);
        let td = bench.td(TdConfig::default().debug(debug));
        let vcpu = bench.vcpu(&td);
        td.finalize(&mut bench.lps[0].seam)
            .expect("nothing to measure");
        World {
            bench,
            td,
            vcpu,
            act,
            context: DebugContext::new(),
        }
    }

    fn stopped(&mut self) -> Stopped<'_, PlatformMemory, Seam> {
        let Lp { seam, .. } = &mut self.bench.lps[0];
        Stopped {
            memory: DebugMemory {
                host: &self.bench.host,
                td: &self.td,
            },
            lp: seam,
            vcpu: &self.vcpu,
            context: &mut self.context,
        }
    }

    /// Runs the guest from one exit to the next; gives what it found.
    fn run(&mut self, kind: Kind, leaves: Vec<(R, u64)>) -> Registers {
        {
            let mut act = self.act.lock().unwrap_or_else(PoisonError::into_inner);
            (act.exit, act.leaves) = (exit(kind), leaves);
        }
        let Lp { seam, .. } = &mut self.bench.lps[0];
        let words = self.vcpu.enter(seam, 0, 0).expect("an entry");
        let tdvmcall = matches!(kind, Kind::Tdvmcall(_));
        let last = self.vcpu.last_exit();
        assert_eq!(
            matches!(last, LastExit::Tdvmcall { .. }),
            tdvmcall,
            "{words:x?}"
        );
        let mut act = self.act.lock().unwrap_or_else(PoisonError::into_inner);
        let found = act.found.take();
        found.unwrap_or_else(|| panic!("the guest was not entered: {words:x?}"))
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Exception),
        Just(Kind::EptViolation),
        Just(Kind::Unexpected),
        Just(Kind::Interrupt),
        // RAX, RCX, RSP never cross, and RBP not in a TD with NO_RBP_MOD.
        any::<u16>().prop_map(|mask| Kind::Tdvmcall(mask & !0x33)),
    ]
}

#[test]
fn guest_and_debugger_agree_on_every_register_after_each_kind_of_exit() {
    let all = registers();
    let values = proptest::collection::vec(any::<u64>(), all.len());
    let mut world = World::new(true);
    enable_exits(&mut world.stopped(), true).expect("a DEBUG TD");
    let strategy = (kinds(), values.clone(), values);
    let mut runner = TestRunner::new(Config {
        cases: 64,
        max_shrink_iters: 30,
        failure_persistence: None,
        ..Config::default()
    });
    let world = std::cell::RefCell::new(world);
    let done = runner.run(&strategy, |(kind, left, written)| {
        let mut world = world.borrow_mut();
        let fit = |reg, value: u64| value & bits(reg) | always(reg);
        let mut leaves: Vec<(R, u64)> = all
            .iter()
            .zip(left)
            .map(|(&reg, value)| (reg, fit(reg, value)))
            .collect();
        let mut mask = 0;
        if let Kind::Tdvmcall(registers) = kind {
            mask = registers;
            for (reg, value) in &mut leaves {
                match reg {
                    R::Gpr(Gpr::Rax) => *value = 0,
                    R::Gpr(Gpr::Rcx) => *value = mask.into(),
                    _ => {}
                }
            }
        }
        world.run(kind, leaves.clone());
        // What the guest left is what the debugger reads: also what the mask hides.
        for (reg, value) in leaves {
            let expected = match (reg, kind) {
                // The TDCALL is done.
                (R::Rip, Kind::Tdvmcall(_)) => value.wrapping_add(4),
                _ => value,
            };
            let read = world.stopped().get(reg).expect("readable");
            prop_assert_eq!(read, expected, "{} after {:?}", reg, kind);
        }
        // What the debugger writes the guest finds, but for what the answer to a TDVMCALL overwrites.
        let mut stopped = world.stopped();
        let mut expected = Vec::new();
        for (&reg, value) in all.iter().zip(written) {
            let value = fit(reg, value);
            let answered = match (kind, reg) {
                (Kind::Tdvmcall(_), R::Gpr(gpr)) => {
                    matches!(gpr, Gpr::Rax | Gpr::Rcx) || mask >> gpr.index() & 1 != 0
                }
                _ => false,
            };
            if !answered {
                stopped.set(reg, value);
                expected.push((reg, value));
            }
        }
        stopped.flush().expect("all of them are writable");
        let mut found = world.run(Kind::Exception, Vec::new());
        for (reg, value) in expected {
            prop_assert_eq!(read(&mut found, reg), value, "{} after {:?}", reg, kind);
        }
        if let Kind::Tdvmcall(_) = kind {
            prop_assert_eq!(found.gpr[0], 0, "the TDCALL succeeded");
            prop_assert_eq!(found.gpr[1], u64::from(mask));
        }
        world.context = DebugContext::new();
        Ok(())
    });
    done.unwrap_or_else(|why| panic!("{why}"));
}

/// Registers that the guest alone sets, or sets to some values only, with the bits that are free.
fn of_the_guest() -> Vec<(R, u64)> {
    let mut all: Vec<(R, u64)> = vec![
        (R::Star, u64::MAX),
        (R::Lstar, u64::MAX),
        (R::Fmask, 0xFFFF_FFFF),
        (R::KernelGsBase, u64::MAX),
        (R::TscAux, 0xFFFF_FFFF),
        (R::SysenterCs, 0xFFFF_FFFF),
        (R::Pat, 0x0707_0707_0707_0707),
        (R::Dr6, 0xE00F),
        (R::Cr0, 0x5_000E),
        (R::Cr4, 0x0780),
        (R::Efer, 0x0801),
    ];
    let segs = [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs];
    all.extend(segs.map(|seg| (R::Segment(seg, SegPart::Access), 0x1_F0FF)));
    all.extend((20..52).map(|word| (R::Xbuff(word), u64::MAX)));
    all
}

#[test]
fn the_debugger_reads_what_the_guest_alone_sets_after_each_kind_of_exit() {
    let all = of_the_guest();
    let values = proptest::collection::vec(any::<u64>(), all.len());
    let mut world = World::new(true);
    enable_exits(&mut world.stopped(), true).expect("a DEBUG TD");
    let mut runner = TestRunner::new(Config {
        cases: 32,
        max_shrink_iters: 30,
        failure_persistence: None,
        ..Config::default()
    });
    let world = std::cell::RefCell::new(world);
    let done = runner.run(&(kinds(), values), |(kind, values)| {
        let mut world = world.borrow_mut();
        let mut leaves: Vec<(R, u64)> = all
            .iter()
            .zip(values)
            .map(|(&(reg, bits), value)| (reg, value & bits | always(reg)))
            .collect();
        let expected = leaves.clone();
        // A guest that gets on: faults again and again at one instruction are the zero-step filter's.
        leaves.push((R::Rip, leaves[0].1));
        if let Kind::Tdvmcall(mask) = kind {
            leaves.extend([(R::Gpr(Gpr::Rax), 0), (R::Gpr(Gpr::Rcx), mask.into())]);
        }
        world.run(kind, leaves);
        for &(reg, value) in &expected {
            // No mask here shows XMM registers: these would be the VMM's.
            let read = world.stopped().get(reg).expect("readable");
            prop_assert_eq!(read, value, "{} after {:?}", reg, kind);
        }
        // Vector registers go the other way too.
        let mut stopped = world.stopped();
        for &(reg, value) in expected
            .iter()
            .filter(|(reg, _)| matches!(reg, R::Xbuff(_)))
        {
            stopped.set(reg, !value);
        }
        stopped.flush().expect("SSE is in use");
        let mut found = world.run(Kind::Exception, Vec::new());
        for &(reg, value) in expected
            .iter()
            .filter(|(reg, _)| matches!(reg, R::Xbuff(_)))
        {
            prop_assert_eq!(read(&mut found, reg), !value, "{} after {:?}", reg, kind);
        }
        world.context = DebugContext::new();
        Ok(())
    });
    done.unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn after_a_triple_fault_every_register_is_still_readable() {
    let mut world = World::new(true);
    let free = registers().into_iter().map(|reg| (reg, bits(reg)));
    let leaves: Vec<(R, u64)> = free
        .chain(of_the_guest())
        .map(|(reg, bits)| (reg, 0x0123_4567_89AB_CDEF & bits | always(reg)))
        .collect();
    world.run(Kind::TripleFault, leaves.clone());
    for (reg, value) in leaves {
        let read = world.stopped().get(reg).expect("readable");
        assert_eq!(read, value, "{reg}");
    }
}

#[test]
fn a_debug_stop_lends_every_register_by_window_and_takes_back_what_was_written() {
    let mut world = World::new(true);
    let words = Default::default();
    world.run(
        Kind::Exception,
        vec![(R::Gpr(Gpr::R9), 9), (R::Gpr(Gpr::Rsp), 0x8000)],
    );
    let seen = world
        .stopped()
        .with_exit(words, |exit| {
            let coco_regs::Exit::Debug(_, all) = exit else {
                panic!("a DEBUG TD");
            };
            all.set(Gpr::R12, 12).expect("every register is shown");
            (all.get(Gpr::R9), all.get(Gpr::Rsp))
        })
        .expect("a DEBUG TD");
    assert_eq!(seen, (Ok(9), Ok(0x8000)));
    world.stopped().flush().expect("writable");
    let found = world.run(Kind::Exception, Vec::new());
    assert_eq!(found.gpr[Gpr::R12.index()], 12);
    assert_eq!(found.gpr[Gpr::R9.index()], 9);
}

#[test]
fn a_production_td_shows_its_debugger_nothing() {
    let mut world = World::new(false);
    let mut stopped = world.stopped();
    let mut all = registers();
    all.extend([
        R::Cr0,
        R::Cr4,
        R::Dr6,
        R::Xcr0,
        R::Efer,
        R::Lstar,
        R::KernelGsBase,
        R::Interruptibility,
        R::PendingDebug,
        R::ExceptionBitmap,
        R::Xbuff(0),
    ]);
    for reg in all {
        // The statuses that the recordings of a production TD show.
        let status = |error: tdx_host::HostError| error.code();
        let read = stopped.vcpu.read_field(stopped.lp, reg.field());
        let expected = Some(Status::METADATA_FIELD_NOT_READABLE);
        assert_eq!(read.map_err(status), Err(expected), "{reg}");
        let written = stopped
            .vcpu
            .write_field(stopped.lp, reg.field(), 0, u64::MAX);
        let expected = Some(Status::METADATA_FIELD_NOT_WRITABLE);
        assert_eq!(written.map_err(status), Err(expected), "{reg}");
        for error in [stopped.get(reg).map(|_| ()), stopped.write(reg, 0)] {
            let told = error.expect_err("it is production").to_string();
            assert!(
                told.starts_with(&format!("{reg} of a production TD cannot be reached")),
                "{told}"
            );
        }
    }
    let error = enable_exits(&mut stopped, true).expect_err("it is production");
    assert!(matches!(error, DebugError::ProductionTd { .. }), "{error}");
    let (memory, lp) = (&stopped.memory, &mut *stopped.lp);
    let mut bytes = [0; 8];
    let read = memory
        .read_gpa(lp, 0x1000, &mut bytes)
        .map_err(|e| e.code());
    assert_eq!(read, Err(Some(Status::TD_NON_DEBUG)));
    let written = memory.write_gpa(lp, 0x1000, &bytes).map_err(|e| e.code());
    assert_eq!(written, Err(Some(Status::TD_NON_DEBUG)));
}

#[test]
fn what_the_abi_forbids_names_field_and_reason() {
    let mut world = World::new(true);
    world.run(Kind::Exception, Vec::new());
    let mut stopped = world.stopped();
    for (reg, value, words) in [
        (R::Lstar, 1, "LSTAR (0x1320000300002082) is read-only"),
        (R::Xcr0, 7, "XCR0 (0x1120000300000020) is read-only"),
        (
            R::Xbuff(64),
            7,
            "XBUFF[64] (0x1220000300000040) is read-only",
        ),
    ] {
        let error = stopped.write(reg, value).expect_err("forbidden");
        assert_eq!(error.to_string(), words);
    }
    // CR0.NE is the module's, and always 1.
    let cr0 = stopped.get(R::Cr0).expect("readable");
    let error = stopped
        .write(R::Cr0, cr0 & !(1 << 5))
        .expect_err("forbidden");
    assert!(
        matches!(error, DebugError::BadValue { reg: R::Cr0, .. }),
        "{error}"
    );
}
