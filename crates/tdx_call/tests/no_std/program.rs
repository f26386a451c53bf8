//! Links every crate of layers 0 and 1 into a program that has nothing else: no standard library, no libc, no start
//! files, no allocator. It uses each of them and exits with 0.
#![no_std]
#![no_main]
#![expect(
    unsafe_code,
    reason = "a program without a runtime: its entry point, exit and memory functions"
)]

use core::arch::{asm, naked_asm};
use core::hint::black_box;
use core::panic::PanicInfo;

use coco_regs::{Exit, GprFile, XmmFile};
use tdx_abi::{HostLeaf, Status};
use tdx_call::instruction::{self, LeaveChanged, SeamLp};
use tdx_call::{
    Direct, NoSeam, SeamcallLp, SoftwareSeam, TdvprAndFlags, TdxModuleArgs, Traffic, VpEntry,
};
use x86_arch::{Gpr, Hpa};

/// A module that answers every leaf, and every entry with a TDVMCALL that shows R10.
struct Module;

impl SoftwareSeam for Module {
    fn seamcall(&mut self, gprs: &mut GprFile, _: &mut XmmFile) -> Result<(), NoSeam> {
        if gprs[Gpr::Rax] == 0 {
            *gprs = GprFile::default();
            gprs[Gpr::Rax] = 77;
            gprs[Gpr::Rcx] = 0x400;
            gprs[Gpr::R10] = 0x1234;
        } else {
            gprs[Gpr::Rax] = Status::SYS_BUSY.0;
        }
        Ok(())
    }
}

fn run() -> bool {
    let mut lp = Direct(Module);
    let mut args = TdxModuleArgs::default();
    let status = lp.seamcall(HostLeaf::SYS_INIT.word(), &mut args, Traffic::InOut);
    let mut file = GprFile::default();
    let mut entry = VpEntry::new(TdvprAndFlags(Hpa::new(0x1000).raw()), &mut file, None);
    let entered = lp.vp_enter(&mut entry).is_ok();
    let shown = match entry.exit() {
        Exit::Tdvmcall(call) => {
            call.gprs.get(Gpr::R10) == Ok(0x1234) && call.gprs.get(Gpr::R11).is_err()
        }
        _ => false,
    };
    // The machine code and its exception table are linked in, not executed: there is no module here.
    // SAFETY: the handle is not called.
    black_box(unsafe { SeamLp::new(LeaveChanged) });
    black_box(<SeamLp as SeamcallLp>::vp_enter as *const ());
    black_box(instruction::tdcall_saved_ret as *const ());
    let stubs = instruction::fixups()
        .filter(|fixup| fixup.instruction < fixup.resume)
        .count();
    let image = tdvf::Image::parse(black_box(&[0; 64]));
    status == Ok(Status::SYS_BUSY) && entered && shown && stubs >= 7 && image.is_err()
}

extern "C" fn start() -> ! {
    let code = if run() { 0 } else { 1 };
    exit(code)
}

/// The stack is aligned to 16 bytes here, and a call expects it 8 off.
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn _start() -> ! {
    naked_asm!("call {}", "ud2", sym start)
}

fn exit(code: u32) -> ! {
    // SAFETY: exit_group does not return.
    unsafe { asm!("syscall", in("eax") 231, in("edi") code, options(noreturn)) }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit(101)
}

/// The precompiled core library names it; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

// What a kernel brings along: the compiler calls these. Written with string instructions, which it does not turn into
// calls of themselves.

/// # Safety
/// As memcpy.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _);
    }
    to
}

/// # Safety
/// As memmove.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= count {
        // SAFETY: going up overwrites nothing that is still to be read.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: the caller's; going down, and the direction flag is put back.
    unsafe {
        asm!(
            "std", "rep movsb", "cld",
            inout("rcx") count => _,
            inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _,
        );
    }
    to
}

/// # Safety
/// As memset.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe {
        asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") value as u8);
    }
    to
}

/// # Safety
/// As memcmp.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    for n in 0..count {
        // SAFETY: the caller's.
        let (x, y) = unsafe { (a.add(n).read_volatile(), b.add(n).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// # Safety
/// As bcmp.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    // SAFETY: the caller's.
    unsafe { memcmp(a, b, count) }
}
