//! Into translated code and back: the frame that it works on, and the one function of ours that it calls.
#![expect(unsafe_code, reason = "calls translated code, which calls back")]

use crate::cpu::Cpu;
use crate::translate::buffer::Buffer;
use x86_arch::{Access, RamPage};

/// What translated code sees of the processor, reached through RBP, which points at `budget`.
#[repr(C)]
#[derive(Default)]
pub struct Frame {
    /// Guest registers: all of them outside translated code, those without a host register also inside.
    pub gpr: [u64; 16],
    /// Instructions that may still run.
    pub budget: i64,
    /// Guest arithmetic flags: byte 1 as LAHF gives them, byte 0 is OF.
    pub flags: u64,
    /// The mirror of the soft TLB for the current tag.
    pub read: u64,
    pub write: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub jumps: u64,
    pub context: u64,
    /// Where the guest goes on.
    pub rip: u64,
    /// An [`Exit`].
    pub exit: u64,
    cpu: u64,
    fill_read: u64,
    fill_write: u64,
    /// Values that survive a second TLB check.
    pub spare: [u64; 2],
    /// The guest's vector registers, 32 bytes each.
    vectors: u64,
    /// Which vector instructions the system lets the guest use.
    pub usable: u64,
}

/// Displacements from RBP.
pub mod at {
    use super::Frame;
    use core::mem::offset_of;

    const fn of(offset: usize) -> i32 {
        offset as i32 - offset_of!(Frame, budget) as i32
    }
    pub const fn gpr(number: u8) -> i32 {
        of(offset_of!(Frame, gpr) + number as usize * 8)
    }
    pub const BUDGET: i32 = of(offset_of!(Frame, budget));
    pub const FLAGS: i32 = of(offset_of!(Frame, flags));
    pub const READ: i32 = of(offset_of!(Frame, read));
    pub const WRITE: i32 = of(offset_of!(Frame, write));
    pub const FS_BASE: i32 = of(offset_of!(Frame, fs_base));
    pub const GS_BASE: i32 = of(offset_of!(Frame, gs_base));
    pub const JUMPS: i32 = of(offset_of!(Frame, jumps));
    pub const CONTEXT: i32 = of(offset_of!(Frame, context));
    pub const RIP: i32 = of(offset_of!(Frame, rip));
    pub const EXIT: i32 = of(offset_of!(Frame, exit));
    pub const CPU: i32 = of(offset_of!(Frame, cpu));
    pub const FILL_READ: i32 = of(offset_of!(Frame, fill_read));
    pub const FILL_WRITE: i32 = of(offset_of!(Frame, fill_write));
    pub const VECTORS: i32 = of(offset_of!(Frame, vectors));
    pub const USABLE: i32 = of(offset_of!(Frame, usable));
    pub const SPARE: i32 = of(offset_of!(Frame, spare));
}

/// Runs translated code until it leaves.
///
/// `code` has to be the address of an entry in `buffer`, made for this frame's layout by [`crate::translate`], and
/// the frame's `read`, `write` and `jumps` those of `cpu`'s tables.
pub(super) fn run<P: RamPage + 'static>(
    buffer: &Buffer,
    frame: &mut Frame,
    cpu: &mut Cpu<'_, P>,
    code: u64,
) {
    let inside = code.wrapping_sub(buffer.address(0)) < buffer.size() as u64;
    assert!(inside, "an entry of this buffer");
    frame.vectors = cpu.vcpu.regs.fpu.ymm.as_mut_ptr() as u64;
    frame.cpu = std::ptr::from_mut(cpu) as u64;
    frame.fill_read = fill::<P, false> as *const () as u64;
    frame.fill_write = fill::<P, true> as *const () as u64;
    // SAFETY: the buffer begins with the entry sequence (`translate::thunks`), which has this signature, keeps all
    // registers that the ABI wants kept and returns. The code it jumps to touches the frame, the tables named by it
    // and RAM through the mirror's entries, each of which is backed by a page handle in `cpu.tlb`; `cpu` is used by
    // nobody else meanwhile, and only in `fill`.
    let enter =
        unsafe { std::mem::transmute::<u64, extern "sysv64" fn(*mut i64, u64)>(buffer.address(0)) };
    let middle = std::ptr::from_mut(frame).cast::<u8>();
    // The pointer keeps the whole frame's provenance: it is derived from the frame, not from the field.
    let middle = middle.wrapping_add(core::mem::offset_of!(Frame, budget));
    enter(middle.cast(), code);
    frame.cpu = 0;
}

/// A miss in the mirror: 1 when the access is to be tried again, 0 when the interpreter has to execute it.
extern "sysv64" fn fill<P: RamPage + 'static, const WRITE: bool>(
    cpu: *mut Cpu<'_, P>,
    linear: u64,
) -> u64 {
    // SAFETY: `run` put the pointer into the frame from a `&mut` that it does not use until translated code is left.
    let cpu = unsafe { &mut *cpu };
    let access = if WRITE { Access::Write } else { Access::Read };
    u64::from(cpu.fill_fast(access, linear))
}
