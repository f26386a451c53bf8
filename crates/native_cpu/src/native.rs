//! Runs one instruction on the host's own processor.
//!
//! Entry and exit go through signals: an INT3 brings us into the handler, which replaces the interrupted context
//! (general registers and the XSAVE image in the signal frame) by the case's; returning from the handler starts the
//! instruction. The INT3 after it, or its fault, brings us back, and the handler puts the runner's context back.
#![expect(
    unsafe_code,
    reason = "the native-CPU runner maps a code page and rewrites signal contexts"
)]

use core::sync::atomic::{AtomicPtr, Ordering};
use std::io;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::{c_int, c_void, siginfo_t, ucontext_t};
use x86_arch::vmx::Fpu;

use crate::state::{CODE, CODE_OFFSET, Case, DATA, DATA_LEN, Exception, Outcome, State};

/// The order of the kernel's `gregs` in x86 encoding order.
const GREGS: [usize; 16] = [13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7];
const GREG_RIP: usize = 16;
const GREG_FLAGS: usize = 17;
const GREG_ERROR: usize = 19;
const GREG_VECTOR: usize = 20;
const GREG_CR2: usize = 22;

/// Offsets in the XSAVE image of a signal frame (standard format).
const XSTATE_BV: usize = 512;
const YMM_HIGH: usize = 576;
const IMAGE_LEN: usize = 4096;

const SIGNALS: [c_int; 5] = [
    libc::SIGTRAP,
    libc::SIGSEGV,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGBUS,
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Enter,
    Running,
}

/// What runner and handler share.
struct Exchange {
    phase: Phase,
    state: State,
    exception: Option<Exception>,
    runner_gregs: [i64; 23],
    runner_image: [u8; IMAGE_LEN],
    image_len: usize,
}

static EXCHANGE: AtomicPtr<Exchange> = AtomicPtr::new(ptr::null_mut());
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The host's processor, ready to run cases. One exists at a time, and it stays on the thread that made it.
pub struct Native {
    exchange: Box<Exchange>,
    stack: Vec<u8>,
    old_actions: Vec<libc::sigaction>,
    old_stack: libc::stack_t,
    _alone: MutexGuard<'static, ()>,
}

impl Native {
    /// Maps the code and data pages and takes the signals.
    ///
    /// # Errors
    /// The addresses are taken, or the system refuses a page that is writable and executable.
    pub fn new() -> io::Result<Self> {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        map(DATA, DATA_LEN, libc::PROT_READ | libc::PROT_WRITE)?;
        if let Err(error) = map(
            CODE,
            0x1000,
            libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
        ) {
            unmap(DATA, DATA_LEN);
            return Err(error);
        }
        let mut exchange = Box::new(Exchange {
            phase: Phase::Idle,
            state: State::default(),
            exception: None,
            runner_gregs: [0; 23],
            runner_image: [0; IMAGE_LEN],
            image_len: 0,
        });
        EXCHANGE.store(&raw mut *exchange, Ordering::SeqCst);
        let mut stack = vec![0u8; 1 << 16];
        let new_stack = libc::stack_t {
            ss_sp: stack.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: stack.len(),
        };
        // SAFETY: plain old data; zero is a value of it.
        let mut old_stack: libc::stack_t = unsafe { std::mem::zeroed() };
        // SAFETY: `stack` lives until `drop` has put the old one back.
        unsafe { libc::sigaltstack(&raw const new_stack, &raw mut old_stack) };
        let old_actions = SIGNALS.map(take_signal).to_vec();
        Ok(Self {
            exchange,
            stack,
            old_actions,
            old_stack,
            _alone: alone,
        })
    }

    /// Runs the instruction of `case` once.
    pub fn run(&mut self, case: &Case) -> Outcome {
        // SAFETY: both pages were mapped writable by `new` and belong to nobody else; the slices do not outlive this
        // block, and the code is no longer than what is left of its page.
        unsafe {
            let code = std::slice::from_raw_parts_mut(CODE as *mut u8, 0x1000);
            code.fill(0xCC);
            code[CODE_OFFSET..CODE_OFFSET + case.bytes.len()].copy_from_slice(&case.bytes);
            std::slice::from_raw_parts_mut(DATA as *mut u8, DATA_LEN)
                .copy_from_slice(&case.memory[..]);
        }
        let exchange = &raw mut *self.exchange;
        // SAFETY: the handler is the only other user of the exchange and runs only inside the INT3 below, which it
        // resumes with every register as it was; the instruction under test can reach only what its registers name:
        // the generator points them at the data pages or at nothing.
        unsafe {
            (*exchange).state = case.state.clone();
            (*exchange).exception = None;
            (*exchange).phase = Phase::Enter;
            core::arch::asm!("int3");
            debug_assert!((*exchange).phase == Phase::Idle);
        }
        let mut memory = case.memory.clone();
        // SAFETY: as above.
        memory.copy_from_slice(unsafe { std::slice::from_raw_parts(DATA as *const u8, DATA_LEN) });
        Outcome {
            state: self.exchange.state.clone(),
            exception: self.exchange.exception,
            memory,
        }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        for (signal, old) in SIGNALS.iter().zip(&self.old_actions) {
            // SAFETY: `old` is what the system gave for this signal.
            unsafe { libc::sigaction(*signal, old, ptr::null_mut()) };
        }
        // SAFETY: the old stack's description came from the system.
        unsafe { libc::sigaltstack(&raw const self.old_stack, ptr::null_mut()) };
        EXCHANGE.store(ptr::null_mut(), Ordering::SeqCst);
        self.stack.clear();
        unmap(DATA, DATA_LEN);
        unmap(CODE, 0x1000);
    }
}

fn map(address: u64, len: usize, protection: c_int) -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: NOREPLACE: nothing that exists is touched.
    let got = unsafe { libc::mmap(address as *mut c_void, len, protection, flags, -1, 0) };
    if got == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    if got as u64 != address {
        unmap(got as u64, len);
        return Err(io::Error::from(io::ErrorKind::AddrInUse));
    }
    Ok(())
}

fn unmap(address: u64, len: usize) {
    // SAFETY: only called on what `map` mapped.
    unsafe { libc::munmap(address as *mut c_void, len) };
}

fn take_signal(signal: c_int) -> libc::sigaction {
    // SAFETY: plain old data; zero is a value of it.
    let (mut new, mut old): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
    new.sa_sigaction = handler as *const () as usize;
    new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler has the signature SA_SIGINFO demands.
    unsafe { libc::sigaction(signal, &raw const new, &raw mut old) };
    old
}

extern "C" fn handler(signal: c_int, _: *mut siginfo_t, context: *mut c_void) {
    let exchange = EXCHANGE.load(Ordering::SeqCst);
    // SAFETY: the kernel gives a valid context whose frame holds the XSAVE image; the exchange lives while the
    // signals are ours, and nobody else uses it while the thread is in here.
    unsafe {
        let context = &mut *context.cast::<ucontext_t>();
        let gregs = &mut context.uc_mcontext.gregs;
        let image = context.uc_mcontext.fpregs.cast::<u8>();
        let Some(exchange) = exchange.as_mut().filter(|e| e.phase != Phase::Idle) else {
            // Not ours: let it happen again without us.
            libc::signal(signal, libc::SIG_DFL);
            return;
        };
        if exchange.phase == Phase::Enter {
            // sw_reserved.xstate_size of the frame.
            let len = (image.add(464 + 16).cast::<u32>().read_unaligned() as usize).min(IMAGE_LEN);
            exchange.image_len = len;
            exchange.runner_gregs = *gregs;
            ptr::copy_nonoverlapping(image, exchange.runner_image.as_mut_ptr(), len);
            let state = &exchange.state;
            for (value, greg) in state.gpr.iter().zip(GREGS) {
                gregs[greg] = *value as i64;
            }
            gregs[GREG_RIP] = state.rip as i64;
            gregs[GREG_FLAGS] = state.rflags as i64;
            write_image(std::slice::from_raw_parts_mut(image, len), &state.fpu);
            exchange.phase = Phase::Running;
            return;
        }
        let state = &mut exchange.state;
        for (value, greg) in state.gpr.iter_mut().zip(GREGS) {
            *value = gregs[greg] as u64;
        }
        state.rip = gregs[GREG_RIP] as u64;
        state.rflags = gregs[GREG_FLAGS] as u64;
        state.fpu = read_image(std::slice::from_raw_parts(image, exchange.image_len));
        exchange.exception = Some(Exception {
            vector: gregs[GREG_VECTOR] as u8,
            error: gregs[GREG_ERROR] as u32,
            address: if gregs[GREG_VECTOR] == 14 {
                gregs[GREG_CR2] as u64
            } else {
                0
            },
        });
        *gregs = exchange.runner_gregs;
        ptr::copy_nonoverlapping(exchange.runner_image.as_ptr(), image, exchange.image_len);
        exchange.phase = Phase::Idle;
    }
}

/// Puts the state into an XSAVE image in standard format.
fn write_image(image: &mut [u8], fpu: &Fpu) {
    let top = usize::from(fpu.fsw >> 11 & 7);
    image[0..2].copy_from_slice(&fpu.fcw.to_le_bytes());
    image[2..4].copy_from_slice(&fpu.fsw.to_le_bytes());
    image[4] = fpu.ftw;
    image[6..8].copy_from_slice(&fpu.fop.to_le_bytes());
    image[8..16].copy_from_slice(&fpu.fip.to_le_bytes());
    image[16..24].copy_from_slice(&fpu.fdp.to_le_bytes());
    image[24..28].copy_from_slice(&fpu.mxcsr.to_le_bytes());
    for i in 0..8 {
        // The image is in stack order, the state in physical order.
        let register = fpu.st[(top + i) % 8].to_le_bytes();
        image[32 + 16 * i..42 + 16 * i].copy_from_slice(&register[..10]);
    }
    for (i, ymm) in fpu.ymm.iter().enumerate() {
        image[160 + 16 * i..176 + 16 * i].copy_from_slice(&ymm[0].to_le_bytes());
        if image.len() >= YMM_HIGH + 256 {
            image[YMM_HIGH + 16 * i..YMM_HIGH + 16 * i + 16].copy_from_slice(&ymm[1].to_le_bytes());
        }
    }
    if image.len() >= YMM_HIGH {
        image[XSTATE_BV] |= if image.len() >= YMM_HIGH + 256 { 7 } else { 3 };
    }
}

/// Reads an XSAVE image; components that are in their initial state are not in it.
fn read_image(image: &[u8]) -> Fpu {
    let present = if image.len() > XSTATE_BV {
        image[XSTATE_BV]
    } else {
        3
    };
    let u16_at = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
    let u64_at = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap_or_default());
    let u128_at =
        |at: usize| u128::from_le_bytes(image[at..at + 16].try_into().unwrap_or_default());
    let mut fpu = Fpu::default();
    if present & 1 != 0 {
        fpu.fcw = u16_at(0);
        fpu.fsw = u16_at(2);
        fpu.ftw = image[4];
        fpu.fop = u16_at(6);
        fpu.fip = u64_at(8);
        fpu.fdp = u64_at(16);
        let top = usize::from(fpu.fsw >> 11 & 7);
        for i in 0..8 {
            fpu.st[(top + i) % 8] = u128_at(32 + 16 * i) & ((1 << 80) - 1);
        }
    }
    fpu.mxcsr = u64_at(24) as u32;
    for (i, ymm) in fpu.ymm.iter_mut().enumerate() {
        if present & 2 != 0 {
            ymm[0] = u128_at(160 + 16 * i);
        }
        if present & 4 != 0 && image.len() >= YMM_HIGH + 256 {
            ymm[1] = u128_at(YMM_HIGH + 16 * i);
        }
    }
    fpu
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(bytes: &[u8]) -> Case {
        let state = State {
            rip: CODE + CODE_OFFSET as u64,
            rflags: 0x202,
            ..State::default()
        };
        Case {
            bytes: bytes.to_vec(),
            state,
            memory: Box::new([0; DATA_LEN]),
        }
    }

    #[test]
    fn registers_vectors_and_memory_go_in_and_come_out() {
        let mut native = Native::new().expect("pages at the fixed addresses");
        let mut add = case(&[0x48, 0x01, 0xD8]); // add rax, rbx
        (add.state.gpr[0], add.state.gpr[3]) = (5, 7);
        assert_eq!(native.run(&add).state.gpr[0], 12);

        let mut store = case(&[0x66, 0x0F, 0x7F, 0x18]); // movdqa [rax], xmm3
        store.state.gpr[0] = DATA + 32;
        store.state.fpu.ymm[3] = [0x1234, 0x5678];
        let outcome = native.run(&store);
        assert_eq!(outcome.memory[32..34], [0x34, 0x12]);
        assert_eq!(outcome.state.fpu.ymm[3][1] & 0xFFFF, 0x5678);
        assert_eq!(outcome.exception.map(|e| e.vector), Some(3));
    }

    #[test]
    fn faults_are_caught_with_their_words() {
        let mut native = Native::new().expect("pages at the fixed addresses");
        let mut load = case(&[0x8B, 0x00]); // mov eax, [rax]
        load.state.gpr[0] = DATA - 4;
        let fault = native.run(&load).exception.expect("a fault");
        assert_eq!(
            (fault.vector, fault.error, fault.address),
            (14, 4, DATA - 4)
        );
        assert_eq!(
            native.run(&case(&[0x0F, 0x0B])).exception.map(|e| e.vector),
            Some(6)
        ); // ud2
        assert_eq!(
            native.run(&case(&[0xF7, 0xF0])).exception.map(|e| e.vector),
            Some(0)
        ); // div eax, eax = 0
    }
}
