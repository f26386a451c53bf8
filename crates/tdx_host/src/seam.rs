//! One SEAMCALL with the host's retry policy; every failure names its leaf.

use tdx_abi::{HostLeaf, LeafWord, Status};
use tdx_call::{SeamcallLp, TdxModuleArgs, Traffic};

use crate::HostError;

/// How often RDRAND is asked again before a leaf's "no entropy" is believed (Linux asks 10 times).
const ENTROPY_TRIES: u32 = 10;
/// How often a busy lock is tried again. The module's locks never wait, and their holders finish in microseconds.
const BUSY_TRIES: u32 = 1000;

/// RCX, RDX, R8 to R11 of a call.
pub(crate) type Operands = [u64; 6];

/// A call that succeeded: the status (which may carry a note) and the registers after it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub status: Status,
    pub regs: TdxModuleArgs,
}

pub(crate) fn args(operands: &[u64]) -> TdxModuleArgs {
    let mut six: Operands = [0; 6];
    six[..operands.len()].copy_from_slice(operands);
    let [rcx, rdx, r8, r9, r10, r11] = six;
    TdxModuleArgs {
        rcx,
        rdx,
        r8,
        r9,
        r10,
        r11,
        ..Default::default()
    }
}

/// One call, no retry.
pub(crate) fn once<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    leaf: HostLeaf,
    version: u8,
    operands: &[u64],
) -> Result<Done, HostError> {
    let mut regs = args(operands);
    let word = LeafWord::new(leaf.0, version);
    let status = lp
        .seamcall(word, &mut regs, Traffic::InOut)
        .map_err(|cause| HostError::NoSeam { leaf, cause })?;
    if status.is_error() {
        return Err(HostError::Refused {
            leaf,
            status,
            rcx: regs.rcx,
            rdx: regs.rdx,
        });
    }
    Ok(Done { status, regs })
}

/// Version 0 of a leaf, tried again while it has no entropy or meets a held lock.
pub(crate) fn call<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    leaf: HostLeaf,
    operands: &[u64],
) -> Result<Done, HostError> {
    let (mut entropy, mut busy) = (0, 0);
    loop {
        let refused = match once(lp, leaf, 0, operands) {
            Ok(done) => return Ok(done),
            Err(refused) => refused,
        };
        match refused.code() {
            Some(Status::RND_NO_ENTROPY | Status::KEY_GENERATION_FAILED)
                if entropy < ENTROPY_TRIES =>
            {
                entropy += 1;
            }
            Some(Status::OPERAND_BUSY | Status::SYS_BUSY) if busy < BUSY_TRIES => {
                busy += 1;
                std::thread::yield_now();
            }
            _ => return Err(refused),
        }
    }
}
