//! Private key IDs: which are free.

use std::collections::BTreeSet;
use std::ops::Range;

use x86_arch::Hkid;

use crate::HostError;

/// The private key IDs that TDs may have; the module's own is not among them.
#[derive(Debug)]
pub(crate) struct HkidAllocator {
    free: BTreeSet<u16>,
}

impl HkidAllocator {
    pub(crate) fn new(ids: Range<u16>) -> Self {
        Self {
            free: ids.collect(),
        }
    }

    /// The lowest free ID.
    pub(crate) fn take(&mut self) -> Result<Hkid, HostError> {
        self.free.pop_first().map(Hkid).ok_or(HostError::OutOfHkids)
    }

    pub(crate) fn give_back(&mut self, id: Hkid) {
        let new = self.free.insert(id.0);
        debug_assert!(new, "key ID {id} was free already");
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_handed_out_once_and_come_back() {
        let mut ids = HkidAllocator::new(33..35);
        let (a, b) = (ids.take().unwrap(), ids.take().unwrap());
        assert_ne!(a, b);
        assert_eq!(ids.take(), Err(HostError::OutOfHkids));
        ids.give_back(a);
        assert_eq!(ids.take(), Ok(a));
    }
}
