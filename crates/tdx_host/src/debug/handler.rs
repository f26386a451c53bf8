//! Where a guest handles an exception, and what it finds on its stack there (SDM volume 3, 6.14).

use tdx_call::{HostMemory, SeamcallLp};
use x86_arch::Gpr;

use super::{DebugError, DebugReg, Stopped};

pub const DB: u8 = 1;
pub const BP: u8 = 3;
pub const VE: u8 = 20;

pub const RFLAGS_TF: u64 = 1 << 8;
pub const RFLAGS_RF: u64 = 1 << 16;

const EFER_LMA: u64 = 1 << 10;

/// The first instruction of the guest's handler of `vector`. `None`: the guest is not in IA-32e mode, or its IDT has
/// no gate for it that can be read.
pub fn of<M: HostMemory, L: SeamcallLp>(
    stopped: &mut Stopped<'_, M, L>,
    vector: u8,
) -> Result<Option<u64>, DebugError> {
    if stopped.get(DebugReg::Efer)? & EFER_LMA == 0 {
        return Ok(None);
    }
    let base = stopped.get(DebugReg::IdtrBase)?;
    let limit = stopped.get(DebugReg::IdtrLimit)?;
    let offset = 16 * u64::from(vector);
    if offset + 15 > limit {
        return Ok(None);
    }
    match stopped.read_words(base.wrapping_add(offset)) {
        Ok(gate) => Ok(target(gate)),
        Err(DebugError::NotMapped { .. } | DebugError::NoPage { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The address in a 64-bit interrupt or trap gate that is present.
fn target([low, high]: [u64; 2]) -> Option<u64> {
    let is_gate = matches!(low >> 40 & 0x1F, 0xE | 0xF);
    let present = low >> 47 & 1 != 0;
    (is_gate && present).then_some(low & 0xFFFF | low >> 48 << 16 | high << 32)
}

/// What the processor pushed for an exception without an error code, while the handler is at its first instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Linear address of the frame.
    pub at: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
}

impl Frame {
    pub fn read<M: HostMemory, L: SeamcallLp>(
        stopped: &mut Stopped<'_, M, L>,
    ) -> Result<Frame, DebugError> {
        let at = stopped.get(DebugReg::Gpr(Gpr::Rsp))?;
        Frame::read_at(stopped, at)
    }

    pub fn read_at<M: HostMemory, L: SeamcallLp>(
        stopped: &mut Stopped<'_, M, L>,
        at: u64,
    ) -> Result<Frame, DebugError> {
        let [rip, cs, rflags, rsp] = stopped.read_words(at)?;
        Ok(Frame {
            at,
            rip,
            cs,
            rflags,
            rsp,
        })
    }

    /// Changes the RFLAGS that the handler's IRET will load.
    pub fn set_rflags<M: HostMemory, L: SeamcallLp>(
        &mut self,
        stopped: &mut Stopped<'_, M, L>,
        rflags: u64,
    ) -> Result<(), DebugError> {
        self.rflags = rflags;
        stopped.write_memory(self.at.wrapping_add(16), &rflags.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_gives_its_target_when_it_is_a_present_one() {
        let gate = [0x8123_8E00_0010_4567, 0xFFFF_FFFF];
        assert_eq!(target(gate), Some(0xFFFF_FFFF_8123_4567));
        assert_eq!(
            target([gate[0] | 1 << 40, gate[1]]),
            Some(0xFFFF_FFFF_8123_4567)
        );
        assert_eq!(target([gate[0] & !(1 << 47), gate[1]]), None, "not present");
        assert_eq!(target([gate[0] & !(1 << 42), gate[1]]), None, "a call gate");
    }
}
