//! Guest memory as a device reaches it: the shared half only.

use tdx_call::HostMemory;
use x86_arch::{Gpa, PAGE_SIZE};

use crate::{Host, HostError, Td};

/// The shared memory of a TD. Reads and writes of private memory are refused, as a device's DMA is.
#[derive(Debug)]
pub struct GuestMemory<'a, M> {
    pub host: &'a Host<M>,
    pub td: &'a Td,
}

impl<M: HostMemory> GuestMemory<'_, M> {
    /// Reads shared memory; the shared bit of `gpa` may be set or clear.
    pub fn read(&self, gpa: Gpa, to: &mut [u8]) -> Result<(), HostError> {
        let mut rest = to;
        self.pages(gpa, rest.len(), |from, len| {
            let (piece, tail) = std::mem::take(&mut rest).split_at_mut(len);
            rest = tail;
            Ok(self.host.memory().read(from, piece)?)
        })
    }

    /// Writes shared memory; the shared bit of `gpa` may be set or clear.
    pub fn write(&self, gpa: Gpa, from: &[u8]) -> Result<(), HostError> {
        let mut rest = from;
        self.pages(gpa, rest.len(), |to, len| {
            let (piece, tail) = rest.split_at(len);
            rest = tail;
            Ok(self.host.memory().write(to, piece)?)
        })
    }

    /// Calls `act` with the host address and length of each piece that lies in one page.
    fn pages(
        &self,
        gpa: Gpa,
        len: usize,
        mut act: impl FnMut(x86_arch::Hpa, usize) -> Result<(), HostError>,
    ) -> Result<(), HostError> {
        let shared_bit = self.td.config().shared_bit();
        let start = gpa.raw() & !shared_bit;
        let bad = HostError::BadRange {
            gpa,
            size: len as u64,
        };
        let Some(end) = start.checked_add(len as u64) else {
            return Err(bad);
        };
        let mut memory = self.td.lock();
        if !memory.is_ram(start, len as u64) {
            return Err(bad);
        }
        let mut at = start;
        while at < end {
            let page = at & !(PAGE_SIZE - 1);
            if !memory.shared_gpas.contains(page) {
                return Err(bad);
            }
            let len = (page + PAGE_SIZE).min(end) - at;
            let hpa = memory.shared.map_ram(self.host, page, shared_bit)?;
            act(x86_arch::Hpa::new(hpa.raw() + (at - page)), len as usize)?;
            at += len;
        }
        memory.stats.shared = memory.shared.ram_pages();
        Ok(())
    }
}
