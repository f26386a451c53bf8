//! The exception table: where to go on after a fault of one of the two instructions.
//!
//! Each stub adds eight bytes to the linker section `tdx_extable`: the distances of the instruction and of its fixup
//! from the two words themselves, so that the table needs no relocation. A kernel's handler of #UD and #GP (or a
//! signal handler, see `tdx_trap`) that finds the faulting RIP in it puts the vector into RAX and resumes at the fixup;
//! the stub then returns Linux's software error for that vector.
#![expect(
    unsafe_code,
    reason = "the exception table lies between two linker symbols"
)]

use core::hint::black_box;

/// One line of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fixup {
    /// Address of a SEAMCALL or TDCALL.
    pub instruction: usize,
    /// Where to resume, with the exception vector in RAX and everything else as it was.
    pub resume: usize,
}

#[derive(Debug)]
#[repr(C)]
struct Line {
    instruction: i32,
    resume: i32,
}

unsafe extern "C" {
    /// The linker defines the bounds of a section whose name is a C identifier.
    #[link_name = "__start_tdx_extable"]
    static START: [Line; 0];
    #[link_name = "__stop_tdx_extable"]
    static STOP: [Line; 0];
}

/// The fixup of the instruction at `rip`, if it is one of ours.
pub fn fixup_of(rip: usize) -> Option<Fixup> {
    fixups().find(|fixup| fixup.instruction == rip)
}

/// All lines of the table.
pub fn fixups() -> impl Iterator<Item = Fixup> {
    // The linker defines the bounds only if some stub is linked in.
    black_box(super::stub::seamcall as *const ());
    // SAFETY: the linker places the bounds of one section, which holds nothing but lines written by `failed!`, four
    // bytes aligned; it is never written.
    let table = unsafe {
        let start = (&raw const START).cast::<Line>();
        let stop = (&raw const STOP).cast::<Line>();
        core::slice::from_raw_parts(start, stop.offset_from_unsigned(start))
    };
    table.iter().map(|line| Fixup {
        instruction: (&raw const line.instruction as usize)
            .wrapping_add_signed(line.instruction as isize),
        resume: (&raw const line.resume as usize).wrapping_add_signed(line.resume as isize),
    })
}
