//! The signal handler, what it serves on each thread, and what was there before it.
#![expect(
    unsafe_code,
    reason = "a signal handler, and handles for instructions that it serves"
)]

use std::cell::Cell;
use std::ffi::c_int;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

use coco_regs::{ExitKind, ExitWords};
use libc::{SIGILL, SIGSEGV, c_void, sigaction, siginfo_t, ucontext_t};
use tdx_abi::Status;
use tdx_call::instruction::{self, LeaveChanged, SeamLp, TdCpu};
use tdx_call::{NoSeam, SeamcallLp, TdcallCpu, TdxModuleArgs, Traffic, VpEntry};
use x86_arch::Gpr;

use crate::frame::Frame;
use crate::{Backend, Instruction};

/// Serves this thread's SEAMCALL and TDCALL from a backend, until it is dropped. A thread has one trap at a time.
#[must_use = "dropping the trap ends it"]
pub struct Trap {
    backend: *mut Box<dyn Backend>,
}

thread_local! {
    /// The backend of this thread, owned by its trap. Constant and without a destructor: a handler may read it.
    static BACKEND: Cell<*mut Box<dyn Backend>> = const { Cell::new(ptr::null_mut()) };
}

impl Trap {
    /// Puts the handler in place (once for the process) and serves this thread.
    ///
    /// # Errors
    /// The kernel refused the handler, or this thread has a trap (`AlreadyExists`).
    pub fn install(backend: impl Backend + 'static) -> io::Result<Trap> {
        catch_faults()?;
        if !BACKEND.get().is_null() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let backend: *mut Box<dyn Backend> = Box::into_raw(Box::new(Box::new(backend)));
        BACKEND.set(backend);
        Ok(Trap { backend })
    }

    /// A handle that executes SEAMCALL on this thread.
    pub fn lp(&self) -> Lp<'_> {
        // SAFETY: the trap serves the instruction on this thread, which the handle cannot leave or outlive.
        let lp = unsafe { SeamLp::new(LeaveChanged) };
        Lp(lp, PhantomData)
    }

    /// A handle that executes TDCALL on this thread.
    pub fn vcpu(&self) -> TdVcpu<'_> {
        // SAFETY: as for `lp`.
        let vcpu = unsafe { TdCpu::new() };
        TdVcpu(vcpu, PhantomData)
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        BACKEND.set(ptr::null_mut());
        // SAFETY: the pointer came from `Box::into_raw`, and no handler runs on this thread while it runs this drop.
        drop(unsafe { Box::from_raw(self.backend) });
    }
}

impl std::fmt::Debug for Trap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Trap")
    }
}

/// A processor whose SEAMCALL a [`Trap`] serves.
#[derive(Debug)]
pub struct Lp<'a>(SeamLp, PhantomData<&'a *const Trap>);

impl SeamcallLp for Lp<'_> {
    fn seamcall(
        &mut self,
        leaf: tdx_abi::LeafWord,
        args: &mut TdxModuleArgs,
        traffic: Traffic,
    ) -> Result<Status, NoSeam> {
        self.0.seamcall(leaf, args, traffic)
    }
    fn vp_enter(&mut self, entry: &mut VpEntry<'_>) -> Result<Status, NoSeam> {
        self.0.vp_enter(entry)
    }
}

/// A virtual processor whose TDCALL a [`Trap`] serves.
#[derive(Debug)]
pub struct TdVcpu<'a>(TdCpu, PhantomData<&'a *const Trap>);

impl TdcallCpu for TdVcpu<'_> {
    fn tdcall(
        &mut self,
        leaf: tdx_abi::LeafWord,
        args: &mut TdxModuleArgs,
        traffic: Traffic,
    ) -> Result<Status, NoSeam> {
        self.0.tdcall(leaf, args, traffic)
    }
}

/// The handlers that were there before ours.
struct Before {
    sigill: sigaction,
    sigsegv: sigaction,
}

static BEFORE: OnceLock<Before> = OnceLock::new();

/// Puts the handler in place without a backend: the instructions of the stubs then answer #UD and #GP as Linux's
/// error words instead of ending the process. Does nothing the second time.
///
/// # Errors
/// The kernel refused the handler.
pub fn catch_faults() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let result = INSTALLED.get_or_init(|| {
        let read = |signal| {
            let mut old = MaybeUninit::<sigaction>::zeroed();
            // SAFETY: a query; the kernel fills `old`.
            match unsafe { libc::sigaction(signal, ptr::null(), old.as_mut_ptr()) } {
                // SAFETY: filled, and every bit pattern of a zeroed one is valid besides.
                0 => Ok(unsafe { old.assume_init() }),
                _ => Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
            }
        };
        // Known before the first fault can come.
        let before = Before {
            sigill: read(SIGILL)?,
            sigsegv: read(SIGSEGV)?,
        };
        BEFORE.get_or_init(|| before);
        for signal in [SIGILL, SIGSEGV] {
            // SAFETY: an all-zero sigaction is valid; the handler has the signature that SA_SIGINFO asks for.
            let result = unsafe {
                let mut action = MaybeUninit::<sigaction>::zeroed().assume_init();
                action.sa_sigaction = on_fault as *const () as usize;
                // Not on an alternate stack: a backend needs room. Not blocked: a fault in a backend is its own.
                action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
                libc::sigaction(signal, &action, ptr::null_mut())
            };
            if result != 0 {
                return Err(io::Error::last_os_error().raw_os_error().unwrap_or(0));
            }
        }
        Ok(())
    });
    result.map_err(io::Error::from_raw_os_error)
}

extern "C" fn on_fault(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a siginfo and the frame of the interrupted code, which only this handler uses.
    let (code, frame) = unsafe { ((*info).si_code, &mut *context.cast::<ucontext_t>()) };
    if serve(signal, code, &mut Frame(frame)).is_none() {
        pass_on(signal, info, context);
    }
}

/// Serves a fault of one of the two instructions; `None` for any other.
fn serve(signal: c_int, code: c_int, frame: &mut Frame<'_>) -> Option<()> {
    let vector = match (signal, code) {
        // #UD arrives as ILL_ILLOPN; a positive code is the kernel's own.
        (SIGILL, 1..) => 6,
        (SIGSEGV, libc::SI_KERNEL) => 13,
        _ => return None,
    };
    let instruction = match frame.code()? {
        instruction::SEAMCALL => Instruction::Seamcall,
        instruction::TDCALL => Instruction::Tdcall,
        _ => return None,
    };
    // A backend that executes the instruction itself finds none.
    let backend = BACKEND.replace(ptr::null_mut());
    let answer = if backend.is_null() {
        match vector {
            6 => Err(NoSeam::InvalidOpcode),
            _ => Err(NoSeam::GeneralProtection),
        }
    } else {
        let mut gprs = frame.gprs();
        let mut xmms = frame.xmms();
        let leaf = gprs[Gpr::Rax];
        // SAFETY: a non-null pointer is the box of a living trap of this thread, and taking it out of the cell made this
        // the only reference.
        let answer = unsafe { (*backend).serve(instruction, &mut gprs, &mut xmms) };
        BACKEND.set(backend);
        if answer.is_ok() {
            frame.set_gprs(&gprs);
            let entered = instruction == Instruction::Seamcall
                && leaf == 0
                && ExitWords::kind_of(Status(gprs[Gpr::Rax])) != ExitKind::NotEntered;
            if entered {
                frame.scrub_extended();
            }
            frame.set_xmms(&xmms);
        }
        answer
    };
    match answer {
        Ok(()) => frame.step_over(false),
        Err(NoSeam::VmFailInvalid) => frame.step_over(true),
        Err(fault) => {
            let fixup = instruction::fixup_of(frame.rip())?;
            let vector = match fault {
                NoSeam::GeneralProtection => 13,
                _ => 6,
            };
            frame.resume(fixup.resume, vector);
        }
    }
    Some(())
}

/// Gives a foreign fault to the handler that was there before.
fn pass_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let Some(before) = BEFORE.get() else { return };
    let action = match signal {
        SIGILL => &before.sigill,
        _ => &before.sigsegv,
    };
    match action.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: the default action ends the process: at once for a signal that was sent, and when the fault
            // happens again otherwise (a fault cannot be ignored).
            unsafe {
                let sent = (*info).si_code <= 0;
                if sent && action.sa_sigaction == libc::SIG_IGN {
                    return;
                }
                libc::signal(signal, libc::SIG_DFL);
                if sent {
                    libc::raise(signal);
                }
            }
        }
        handler if action.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: the kernel recorded this function as a three-argument handler of this signal.
            let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: the kernel recorded this function as a one-argument handler of this signal.
            let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}

#[cfg(test)]
mod tests;
