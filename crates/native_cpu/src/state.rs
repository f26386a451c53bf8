//! What one test case is and what came of it, on either processor.

use x86_arch::vmx::Fpu;

/// Where the instruction's page is: low, so that 32-bit addresses reach it.
pub const CODE: u64 = 0x2000_0000;
/// Where in that page the instruction starts. The rest of the page is INT3.
pub const CODE_OFFSET: usize = 0x800;
/// Two readable and writable pages with unmapped ones on both sides.
pub const DATA: u64 = 0x1000_0000;
pub const DATA_LEN: usize = 0x2000;

/// The registers an instruction in ring 3 sees.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct State {
    /// In x86 encoding order.
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub fpu: Fpu,
}

/// An exception, as the processor reported it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exception {
    pub vector: u8,
    /// 0 where the vector has none.
    pub error: u32,
    /// CR2 for #PF, else 0.
    pub address: u64,
}

/// One instruction and everything it starts from.
#[derive(Clone)]
pub struct Case {
    pub bytes: Vec<u8>,
    pub state: State,
    pub memory: Box<[u8; DATA_LEN]>,
}

/// Registers and memory after the instruction; with an exception they are those it was taken with.
#[derive(Clone, PartialEq, Eq)]
pub struct Outcome {
    pub state: State,
    pub exception: Option<Exception>,
    pub memory: Box<[u8; DATA_LEN]>,
}
