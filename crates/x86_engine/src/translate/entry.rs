//! Into translated code and back: the frame that it works on, and the one function of ours that it calls.
#![expect(unsafe_code, reason = "calls translated code, which calls back")]

use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::translate::buffer::Buffer;
use crate::translate::site::Site;
use x86_arch::vmx::Fpu;
use x86_arch::{Access, RamPage};

/// What translated code sees of the processor besides [`Cpu::gpr`], which lies before it. RBP points between the two.
#[repr(C)]
#[derive(Default)]
pub struct Frame {
    /// Instructions that may still run.
    pub budget: i64,
    /// Guest arithmetic flags: byte 1 as LAHF gives them, byte 0 is OF.
    pub flags: u64,
    /// The mirror of the soft TLB for the current tag.
    pub read: u64,
    pub write: u64,
    pub jumps: u64,
    pub context: u64,
    /// Values that survive a second TLB check.
    pub spare: [u64; 3],
    /// Where the guest goes on.
    pub rip: u64,
    /// An [`Exit`](super::thunks::Exit).
    pub exit: u64,
    /// The guest's vector registers, 32 bytes each, in its [`Fpu`].
    vectors: u64,
    /// Which vector instructions the system lets the guest use, and whether the host's MXCSR is the guest's.
    pub usable: u64,
    /// The host's own MXCSR meanwhile.
    host_mxcsr: u64,
    fill_read: u64,
    fill_write: u64,
    step: u64,
    /// The code that leaves, for [`Site::step`].
    pub leave: u64,
    /// `Cpu::retired` when the budget will be 0.
    pub limit: u64,
    /// Instructions that the interpreter executed for it.
    pub stepped: u64,
    /// Why the instruction at `rip` did not complete ([`Exit::Fault`](super::thunks::Exit::Fault)).
    pub fault: Option<Fault>,
}

/// Displacements from RBP.
pub mod at {
    use super::Frame;
    use crate::cpu::REG_SEG;
    use core::mem::offset_of;
    use x86_arch::vmx::{Fpu, Seg};

    /// Where RBP points, from the start of [`Cpu`](crate::Cpu): what is used most lies within a byte's reach.
    pub const BASE: i32 = 192;
    const fn of(offset: usize) -> i32 {
        super::FRAME as i32 + offset as i32 - BASE
    }
    pub const fn gpr(number: u8) -> i32 {
        number as i32 * 8 - BASE
    }
    pub const BUDGET: i32 = of(offset_of!(Frame, budget));
    pub const FLAGS: i32 = of(offset_of!(Frame, flags));
    pub const READ: i32 = of(offset_of!(Frame, read));
    pub const WRITE: i32 = of(offset_of!(Frame, write));
    pub const FS_BASE: i32 = gpr(REG_SEG + Seg::Fs as u8);
    pub const GS_BASE: i32 = gpr(REG_SEG + Seg::Gs as u8);
    pub const JUMPS: i32 = of(offset_of!(Frame, jumps));
    pub const CONTEXT: i32 = of(offset_of!(Frame, context));
    pub const RIP: i32 = of(offset_of!(Frame, rip));
    pub const EXIT: i32 = of(offset_of!(Frame, exit));
    pub const FILL_READ: i32 = of(offset_of!(Frame, fill_read));
    pub const FILL_WRITE: i32 = of(offset_of!(Frame, fill_write));
    pub const STEP: i32 = of(offset_of!(Frame, step));
    pub const VECTORS: i32 = of(offset_of!(Frame, vectors));
    pub const USABLE: i32 = of(offset_of!(Frame, usable));
    pub const HOST_MXCSR: i32 = of(offset_of!(Frame, host_mxcsr));
    /// The guest's MXCSR, from where `vectors` points.
    pub const MXCSR_BEHIND: i32 = offset_of!(Fpu, mxcsr) as i32 - offset_of!(Fpu, ymm) as i32;
    pub const SPARE: i32 = of(offset_of!(Frame, spare));
}

/// The offsets of `gpr` and `frame` in a [`Cpu`].
const FRAME: usize = 256;
const _: () = {
    use crate::flat::FlatPage;
    use core::mem::offset_of;
    assert!(offset_of!(Cpu<'static, FlatPage>, gpr) == 0);
    assert!(offset_of!(Cpu<'static, FlatPage>, frame) == FRAME);
};

/// Runs translated code until it leaves.
///
/// `code` has to be the address of an entry in `buffer`, made by [`crate::translate`], and the frame's `read`, `write`
/// and `jumps` those of `cpu`'s tables.
pub(super) fn run<P: RamPage + 'static>(buffer: &Buffer, cpu: &mut Cpu<'_, P>, code: u64) {
    let inside = code.wrapping_sub(buffer.address(0)) < buffer.size() as u64;
    assert!(inside, "an entry of this buffer");
    let fpu = std::ptr::from_mut(&mut cpu.vcpu.regs.fpu) as u64;
    let frame = &mut cpu.frame;
    frame.vectors = fpu + core::mem::offset_of!(Fpu, ymm) as u64;
    frame.fill_read = fill::<P, false> as *const () as u64;
    frame.fill_write = fill::<P, true> as *const () as u64;
    frame.step = step::<P> as *const () as u64;
    // SAFETY: the buffer begins with the entry sequence (`translate::thunks`), which has this signature, keeps all
    // registers that the ABI wants kept and returns. The code it jumps to touches `cpu.gpr` and `cpu.frame`, the
    // guest's vector registers, the tables named by the frame, and RAM through the mirror's entries, each of which is
    // backed by a page handle in `cpu.tlb`; `cpu` is used by nobody else meanwhile, and only in `fill` and `step`.
    let enter =
        unsafe { std::mem::transmute::<u64, extern "C" fn(*mut u8, u64)>(buffer.address(0)) };
    let base = std::ptr::from_mut(cpu).cast::<u8>();
    enter(base.wrapping_add(at::BASE as usize), code);
}

/// A miss in the mirror: 1 when the access is to be tried again, 0 when the interpreter has to execute it.
extern "C" fn fill<P: RamPage + 'static, const WRITE: bool>(
    cpu: *mut Cpu<'_, P>,
    linear: u64,
) -> u64 {
    // SAFETY: the thunk computes the pointer from RBP, which `run` derived from a `&mut` that it does not use until
    // translated code is left.
    let cpu = unsafe { &mut *cpu };
    let access = if WRITE { Access::Write } else { Access::Read };
    u64::from(cpu.fill_fast(access, linear))
}

/// An instruction that the interpreter executes: the address of the code that goes on.
extern "C" fn step<P: RamPage + 'static>(cpu: *mut Cpu<'_, P>, site: *const Site<P>) -> u64 {
    // SAFETY: `cpu` as in `fill`. The block's code holds the address of its site, which `Translator` keeps at its place
    // until it gives up all code.
    let (cpu, site) = unsafe { (&mut *cpu, &*site) };
    site.step(cpu)
}
