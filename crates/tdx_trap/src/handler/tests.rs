#![expect(
    unsafe_code,
    reason = "raises the very signals that the handler serves"
)]

use super::*;
use std::arch::{asm, naked_asm};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use coco_regs::{GprFile, XmmFile};
use tdx_abi::HostLeaf;
use tdx_call::{Direct, SoftwareSeam};

use crate::{InTd, OnHost};

#[path = "../../../tdx_call/tests/fake_td/mod.rs"]
mod fake_td;
#[path = "../../../tdx_call/tests/fake_td/rules.rs"]
mod rules;

use fake_td::FakeTd;

/// Faults that reached the handler which was there before the trap, by signal.
static FOREIGN: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// The process's own handler, installed before the trap: counts, and skips the faulting instruction (two bytes: UD2, or
/// a load from address zero written as two).
extern "C" fn foreign(signal: c_int, _: *mut siginfo_t, context: *mut c_void) {
    FOREIGN[usize::from(signal == SIGSEGV)].fetch_add(1, Ordering::SeqCst);
    // SAFETY: the kernel passes the frame.
    let frame = unsafe { &mut *context.cast::<ucontext_t>() };
    frame.uc_mcontext.gregs[libc::REG_RIP as usize] += 2;
}

fn set_up() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in [SIGILL, SIGSEGV] {
            // SAFETY: as in `catch_faults`.
            let result = unsafe {
                let mut action = MaybeUninit::<sigaction>::zeroed().assume_init();
                action.sa_sigaction = foreign as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO;
                libc::sigaction(signal, &action, ptr::null_mut())
            };
            assert_eq!(result, 0);
        }
        catch_faults().expect("a handler");
    });
}

#[derive(Clone)]
struct Shared(Rc<RefCell<FakeTd>>);

impl SoftwareSeam for Shared {
    fn seamcall(&mut self, gprs: &mut GprFile, xmms: &mut XmmFile) -> Result<(), NoSeam> {
        self.0.borrow_mut().seamcall(gprs, xmms)
    }
}
impl rules::Behind for Shared {
    fn td<R>(&mut self, look: impl FnOnce(&mut FakeTd) -> R) -> R {
        look(&mut self.0.borrow_mut())
    }
}

fn td(no_rbp_mod: bool) -> (Trap, Shared) {
    set_up();
    let td = Shared(Rc::new(RefCell::new(FakeTd::new(no_rbp_mod))));
    (Trap::install(OnHost(td.clone())).expect("a trap"), td)
}

#[test]
fn every_legal_mask_crosses_exactly_through_the_machine_code() {
    for no_rbp_mod in [true, false] {
        let (trap, mut td) = td(no_rbp_mod);
        for mask in rules::legal_masks(no_rbp_mod) {
            rules::a_mask_crosses_exactly(&mut trap.lp(), &mut td, mask);
        }
    }
}

#[test]
fn xmm_subsets_cross_exactly_through_the_machine_code() {
    let (trap, mut td) = td(true);
    // Each register alone, all but each, and a walk through the rest.
    let walk = (0..200u32).map(|n| n.wrapping_mul(0x9E37) & 0xFFFF);
    for xmm in (0..16)
        .map(|n| 1 << n)
        .chain((0..16).map(|n| 0xFFFF ^ 1 << n))
        .chain(walk)
    {
        for gprs in [0, 0xFFCC, 0xFC00, 0xD04] {
            rules::a_mask_crosses_exactly(&mut trap.lp(), &mut td, xmm << 16 | gprs);
        }
    }
}

#[test]
fn illegal_masks_make_no_exit_through_the_machine_code() {
    let (trap, mut td) = td(true);
    for rcx in [1, 2, 0x10, 0x20, 0x30, 0xFFFF, 1 << 32, 1 << 63] {
        rules::an_illegal_mask_makes_no_exit(&mut trap.lp(), &mut td, rcx);
    }
}

/// Answers with a function of what it sees, on every register.
struct Echo;

impl SoftwareSeam for Echo {
    fn seamcall(&mut self, gprs: &mut GprFile, _: &mut XmmFile) -> Result<(), NoSeam> {
        match gprs[Gpr::Rcx] {
            0xBAD0 => return Err(NoSeam::VmFailInvalid),
            0xBAD1 => return Err(NoSeam::InvalidOpcode),
            0xBAD2 => return Err(NoSeam::GeneralProtection),
            _ => {}
        }
        let leaf = gprs[Gpr::Rax];
        for reg in [Gpr::Rcx, Gpr::Rdx, Gpr::R8, Gpr::R9, Gpr::R10, Gpr::R11] {
            gprs[reg] = gprs[reg].rotate_left(7) ^ leaf;
        }
        if leaf == 48 {
            // A leaf with outputs beyond the six.
            for reg in [
                Gpr::R12,
                Gpr::R13,
                Gpr::R14,
                Gpr::R15,
                Gpr::Rbx,
                Gpr::Rdi,
                Gpr::Rsi,
            ] {
                gprs[reg] = !gprs[reg];
            }
        }
        gprs[Gpr::Rbp] = 0; // as a module may, which must harm nobody
        gprs[Gpr::Rax] = 0x8000_0200_0000_0000 | leaf;
        Ok(())
    }
}

#[test]
fn the_machine_code_and_the_direct_backend_give_identical_results() {
    set_up();
    let trap = Trap::install(OnHost(Echo)).expect("a trap");
    let (mut hard, mut soft) = (trap.lp(), Direct(Echo));
    let mut seed = 1u64;
    let mut next = || {
        seed = seed.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        seed ^ seed >> 29
    };
    for _ in 0..200 {
        let block = TdxModuleArgs::from_array(std::array::from_fn(|_| next()));
        for rcx in [block.rcx, 0xBAD0, 0xBAD1, 0xBAD2] {
            for (leaf, traffic) in [
                (HostLeaf::MNG_RD, Traffic::In),
                (HostLeaf::MNG_RD, Traffic::InOut),
                (HostLeaf::SERVTD_BIND, Traffic::Saved),
            ] {
                let (mut a, mut b) = (
                    TdxModuleArgs { rcx, ..block },
                    TdxModuleArgs { rcx, ..block },
                );
                assert_eq!(
                    hard.seamcall(leaf.word(), &mut a, traffic),
                    soft.seamcall(leaf.word(), &mut b, traffic)
                );
                assert_eq!(a, b, "{leaf} {traffic:?}");
                if (0xBAD0..=0xBAD2).contains(&rcx) {
                    assert_eq!(
                        a,
                        TdxModuleArgs { rcx, ..block },
                        "a call that failed stores nothing"
                    );
                }
            }
        }
    }
}

#[test]
fn tdcall_is_served_in_a_td_and_seamcall_is_not() {
    struct Td;
    impl tdx_call::SoftwareTd for Td {
        fn tdcall(&mut self, gprs: &mut GprFile, _: &mut XmmFile) -> Result<(), NoSeam> {
            assert_eq!(gprs[Gpr::Rax], 1, "TDG.VP.INFO");
            gprs[Gpr::Rax] = 0;
            gprs[Gpr::Rcx] = 52;
            gprs[Gpr::R8] = 4 << 32 | 2;
            Ok(())
        }
    }
    set_up();
    let trap = Trap::install(InTd(Td)).expect("a trap");
    let info = tdx_call::guest::tdg_vp_info(&mut trap.vcpu()).expect("an answer");
    assert_eq!((info.gpaw, info.num_vcpus, info.max_vcpus), (52, 2, 4));
    let mut args = TdxModuleArgs::default();
    let result = trap
        .lp()
        .seamcall(HostLeaf::SYS_INIT.word(), &mut args, Traffic::In);
    assert_eq!(result, Err(NoSeam::InvalidOpcode));
}

#[test]
fn without_a_backend_a_stub_answers_undefined_opcode() {
    set_up();
    // SAFETY: the handler is in place.
    let mut lp = unsafe { SeamLp::new(LeaveChanged) };
    let mut args = TdxModuleArgs::from_array([5; 13]);
    for traffic in [Traffic::In, Traffic::InOut, Traffic::Saved] {
        let result = lp.seamcall(HostLeaf::SYS_INIT.word(), &mut args, traffic);
        assert_eq!(result, Err(NoSeam::InvalidOpcode));
        assert_eq!(args, TdxModuleArgs::from_array([5; 13]));
    }
    // SAFETY: as before.
    let result = unsafe { TdCpu::new() }.tdcall(
        tdx_abi::GuestLeaf::VP_INFO.word(),
        &mut args,
        Traffic::InOut,
    );
    assert_eq!(result, Err(NoSeam::InvalidOpcode));
}

/// Queues `info` to the own thread, and has SEAMCALL as the next instruction: the kernel delivers the signal with RIP
/// on it. RAX and RCX of the call are the system call's result and return address.
#[unsafe(naked)]
extern "sysv64" fn queue_then_seamcall(
    _pid: i64,
    _tid: i64,
    _signal: i64,
    _info: *const siginfo_t,
) -> u64 {
    naked_asm!(
        "mov r10, rcx",
        "mov eax, 297", // rt_tgsigqueueinfo
        "syscall",
        ".byte 0x66, 0x0F, 0x01, 0xCF",
        "ret",
    )
}

#[test]
fn the_fault_of_a_seam_capable_processor_is_served_too() {
    set_up();
    let calls = Rc::new(Cell::new(0));
    let seen = calls.clone();
    let _trap = Trap::install(
        move |which: Instruction, gprs: &mut GprFile, _: &mut XmmFile| {
            assert_eq!(which, Instruction::Seamcall);
            seen.set(seen.get() + 1);
            gprs[Gpr::Rax] = 0x1234;
            Ok(())
        },
    )
    .expect("a trap");
    // SAFETY: all zero is a valid siginfo; a process may send any code to itself.
    let rax = unsafe {
        let mut info = MaybeUninit::<siginfo_t>::zeroed().assume_init();
        info.si_signo = SIGSEGV;
        info.si_code = libc::SI_KERNEL;
        queue_then_seamcall(
            libc::getpid().into(),
            libc::gettid().into(),
            SIGSEGV.into(),
            &info,
        )
    };
    assert_eq!((rax, calls.get()), (0x1234, 1));
}

#[test]
fn a_foreign_fault_goes_to_the_handler_that_was_there_before() {
    set_up();
    let _trap = Trap::install(OnHost(Echo)).expect("a trap");
    let before = [0, 1].map(|n: usize| FOREIGN[n].load(Ordering::SeqCst));
    // SAFETY: `foreign` skips the instruction, which changes nothing; `mov (%rax), %eax` has two bytes.
    unsafe {
        asm!("ud2", options(nomem, nostack));
        asm!("mov eax, [rax]", inout("rax") 0u64 => _, options(nostack));
    }
    let after = [0, 1].map(|n: usize| FOREIGN[n].load(Ordering::SeqCst));
    assert_eq!(after, [before[0] + 1, before[1] + 1]);
}

#[test]
fn each_thread_has_its_own_backend() {
    set_up();
    let threads: Vec<_> = (1..=4u64)
        .map(|id| {
            std::thread::spawn(move || {
                let trap =
                    Trap::install(move |_: Instruction, gprs: &mut GprFile, _: &mut XmmFile| {
                        gprs[Gpr::Rax] = id << 8 | gprs[Gpr::Rcx];
                        Ok(())
                    })
                    .expect("a trap");
                let mut lp = trap.lp();
                for n in 0..2000 {
                    let mut args = TdxModuleArgs {
                        rcx: n & 0xFF,
                        ..Default::default()
                    };
                    let status = lp.seamcall(HostLeaf::SYS_RD.word(), &mut args, Traffic::In);
                    assert_eq!(status, Ok(Status(id << 8 | n & 0xFF)));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
}

#[test]
fn a_second_trap_on_a_thread_is_refused_and_the_first_goes_on() {
    set_up();
    let trap = Trap::install(OnHost(Echo)).expect("a trap");
    let error = Trap::install(OnHost(Echo)).expect_err("one trap a thread");
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    let mut args = TdxModuleArgs::default();
    assert!(
        trap.lp()
            .seamcall(HostLeaf::SYS_RD.word(), &mut args, Traffic::In)
            .is_ok()
    );
}

#[test]
fn a_td_exit_resets_the_extended_state_and_an_error_does_not() {
    let (trap, td) = td(true);
    let mut file = GprFile::default();
    let mut entry = VpEntry::new(tdx_call::TdvprAndFlags(FakeTd::TDVPR), &mut file, None);
    let mxcsr = || {
        let mut value = 0u32;
        // SAFETY: stores MXCSR to a local.
        unsafe { asm!("stmxcsr [{}]", in(reg) &mut value, options(nostack)) };
        value
    };
    let round_down = 0x3F80u32;
    // SAFETY: the rounding mode matters to no floating-point code here, and is reset below.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &round_down, options(nostack)) };
    td.0.borrow_mut().next = fake_td::Next::Refused(Status::OPERAND_BUSY);
    trap.lp().vp_enter(&mut entry).expect("an answer");
    let kept = mxcsr();
    td.0.borrow_mut().next = fake_td::Next::Asynchronous([1, 0, 0, 0, 0]);
    trap.lp().vp_enter(&mut entry).expect("an answer");
    let reset = mxcsr();
    assert_eq!((kept, reset), (0x3F80, 0x1F80));
}

#[test]
fn the_hook_of_a_kernel_runs_around_each_td_entry_and_no_other_call() {
    /// Notes the order: 1 saved, 2 the module, 3 restored.
    struct Hook(Rc<RefCell<Vec<u8>>>);
    impl instruction::HostState for Hook {
        fn save(&mut self) {
            self.0.borrow_mut().push(1);
        }
        fn restore(&mut self) {
            self.0.borrow_mut().push(3);
        }
    }
    set_up();
    let order = Rc::new(RefCell::new(Vec::new()));
    let seen = order.clone();
    let serve = move |_: Instruction, gprs: &mut GprFile, _: &mut XmmFile| {
        seen.borrow_mut().push(2);
        gprs[Gpr::Rax] = 1;
        Ok(())
    };
    let _trap = Trap::install(serve).expect("a trap");
    // SAFETY: the trap serves this thread.
    let mut lp = unsafe { SeamLp::new(Hook(order.clone())) };
    let mut file = GprFile::default();
    let mut entry = VpEntry::new(tdx_call::TdvprAndFlags(0x1000), &mut file, None);
    assert_eq!(lp.vp_enter(&mut entry), Ok(Status(1)));
    assert_eq!(order.take(), [1, 2, 3]);
    let mut args = TdxModuleArgs::default();
    let done = lp.seamcall(HostLeaf::SYS_RD.word(), &mut args, Traffic::InOut);
    assert_eq!((done, order.take()), (Ok(Status(1)), vec![2]));
    let done = lp.seamcall(HostLeaf::VP_ENTER.word(), &mut args, Traffic::In);
    assert_eq!((done, order.take()), (Ok(Status(1)), vec![1, 2, 3]));
}

#[test]
fn a_leaf_that_may_change_callee_saved_registers_is_called_with_them_saved() {
    set_up();
    let serve = |_: Instruction, gprs: &mut GprFile, _: &mut XmmFile| {
        // An asynchronous exit of 1.5.01: RBX, RBP, RSI, RDI and R10 to R15 are 0.
        let rsp = gprs[Gpr::Rsp];
        *gprs = GprFile::default();
        gprs[Gpr::Rsp] = rsp;
        gprs[Gpr::Rax] = 1;
        Ok(())
    };
    let trap = Trap::install(serve).expect("a trap");
    let (mut lp, mut vcpu) = (trap.lp(), trap.vcpu());
    let kept: Vec<u64> = (0..32).map(|n| n * n).collect();
    for traffic in [Traffic::In, Traffic::InOut, Traffic::Saved] {
        let given = TdxModuleArgs::from_array([7; 13]);
        let expected = match traffic {
            Traffic::In => given,
            Traffic::InOut => {
                TdxModuleArgs::from_array(std::array::from_fn(|n| 7 * u64::from(n >= 6)))
            }
            Traffic::Saved => TdxModuleArgs::default(),
        };
        // 200: a number that no module has yet.
        for leaf in [0, 48, 200] {
            let mut args = given;
            let done = lp.seamcall(tdx_abi::LeafWord::new(leaf, 0), &mut args, traffic);
            assert_eq!(
                (done, args),
                (Ok(Status(1)), expected),
                "{leaf} {traffic:?}"
            );
            // What the compiler kept in registers across the call is still there.
            assert_eq!(kept.iter().sum::<u64>(), 10416);
        }
        for leaf in [18, 20, 25, 200] {
            let mut args = given;
            let done = vcpu.tdcall(tdx_abi::LeafWord::new(leaf, 0), &mut args, traffic);
            assert_eq!(
                (done, args),
                (Ok(Status(1)), expected),
                "{leaf} {traffic:?}"
            );
            assert_eq!(kept.iter().sum::<u64>(), 10416);
        }
    }
}
