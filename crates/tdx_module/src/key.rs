//! Key programming and random values, as the leaves need them.

use crate::call::Call;
use crate::machine::{KeyError, Machine, PackageId};
use crate::refusal::{Broken, Stop};
use tdx_abi::{OperandId, Status};
use x86_arch::Hkid;

/// PCONFIG: a random key for `hkid` on the caller's package.
pub fn program_key<M: Machine>(call: &Call<'_, M>, hkid: Hkid) -> Result<(), Stop> {
    match call.machine().program_random_key(call.lp, hkid) {
        Ok(()) => Ok(()),
        Err(KeyError::Entropy) => Err(Status::KEY_GENERATION_FAILED.into()),
        Err(KeyError::DeviceBusy) => Err(Status::OPERAND_BUSY.with_operand(OperandId::KET).into()),
        Err(KeyError::Other(_)) => Err(Broken("PCONFIG failed").into()),
    }
}

/// 256 random bits. The generator may fail twice in all (spec: host-td.md 3.1).
pub fn random_256<M: Machine>(call: &Call<'_, M>) -> Result<[u64; 4], Status> {
    let mut words = [0; 4];
    let mut tries = 6;
    for word in &mut words {
        *word = loop {
            if tries == 0 {
                return Err(Status::RND_NO_ENTROPY);
            }
            tries -= 1;
            if let Some(random) = call.machine().random(call.lp) {
                break random;
            }
        };
    }
    Ok(words)
}

impl<M: Machine> Call<'_, M> {
    /// The package of the calling processor.
    pub fn package(&self) -> Result<PackageId, Broken> {
        let local = self.lp_state.local.try_lock();
        let local = local.ok_or(Broken("two calls on one processor"))?;
        Ok(local.package)
    }
}
