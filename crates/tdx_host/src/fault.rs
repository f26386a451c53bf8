//! EPT violations: giving the guest the page it asked for (spec: vp-enter.md 7.3, guest-leaves.md 8.1).

use tdx_call::host::tdh_mem_page_aug;
use tdx_call::{GpaMapping, HostMemory, SeamcallLp};
use x86_arch::{Gpa, PAGE_SIZE};

use crate::pages::LARGE_PAGE;
use crate::seam::retry;
use crate::shared_ept::SharedEntry;
use crate::td::{PrivatePage, TdMemory};
use crate::{Host, HostError, Td};

/// What an EPT violation came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Faulted {
    /// The page is there now: enter again.
    Served,
    /// The page was there already, as when another vCPU was faster: enter again, but not for ever.
    Present,
    /// The caller must decide.
    Fault(MemoryFault),
}

/// An access that no page answers: `KVM_EXIT_MEMORY_FAULT`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryFault {
    /// RAM used as shared that is private (`to_shared`), or the other way round. KVM's users convert it.
    WrongHalf { gpa: Gpa, to_shared: bool },
    /// Private access outside RAM.
    NoMemory { gpa: Gpa },
    /// Private RAM used before the guest accepted it.
    NotAccepted { gpa: Gpa },
    /// A shared access outside RAM that cannot become a #VE, such as an instruction fetch.
    Device { gpa: Gpa },
    /// The access faults again and again although the host gave the TD this page.
    Stuck { gpa: Gpa },
}

impl std::fmt::Display for MemoryFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::WrongHalf {
                gpa,
                to_shared: true,
            } => write!(f, "shared access to private memory at {gpa}"),
            Self::WrongHalf { gpa, .. } => write!(f, "private access to shared memory at {gpa}"),
            Self::NoMemory { gpa } => write!(f, "access outside memory at {gpa}"),
            Self::NotAccepted { gpa } => write!(f, "access before accepting at {gpa}"),
            Self::Stuck { gpa } => write!(f, "endless faults on the page that was given at {gpa}"),
            Self::Device { gpa } => write!(f, "instruction fetch from a device at {gpa}"),
        }
    }
}

/// Extended exit qualification, bits 3:0: the violation came from TDG.MEM.PAGE.ACCEPT.
const TYPE_ACCEPT: u64 = 1;
/// The page is there, but not accepted, and #VE for that is off.
const TYPE_PENDING: u64 = 6;

impl Td {
    /// Serves an EPT-violation exit: `gpa` is R8 and `extended` RDX of it.
    pub fn ept_violation<L: SeamcallLp, M: HostMemory>(
        &self,
        host: &Host<M>,
        lp: &mut L,
        gpa: Gpa,
        extended: u64,
    ) -> Result<Faulted, HostError> {
        let shared_bit = self.config.shared_bit();
        let page = gpa.page().raw() & !shared_bit;
        let mut memory = self.lock();
        let ram = memory.is_ram(page, PAGE_SIZE);
        let marked_shared = memory.shared_gpas.contains(page);
        if gpa.raw() & shared_bit != 0 {
            if ram && !marked_shared {
                return Ok(Faulted::Fault(MemoryFault::WrongHalf {
                    gpa: Gpa::new(page),
                    to_shared: true,
                }));
            }
            return memory.shared_violation(self, host, page, ram);
        }
        if !ram {
            return Ok(Faulted::Fault(MemoryFault::NoMemory { gpa }));
        }
        if marked_shared {
            return Ok(Faulted::Fault(MemoryFault::WrongHalf {
                gpa: Gpa::new(page),
                to_shared: false,
            }));
        }
        memory.private_violation(self, host, lp, page, extended)
    }
}

impl TdMemory {
    fn shared_violation<M: HostMemory>(
        &mut self,
        td: &Td,
        host: &Host<M>,
        page: u64,
        ram: bool,
    ) -> Result<Faulted, HostError> {
        let shared_bit = td.config.shared_bit();
        if ram {
            self.shared.map_ram(host, page, shared_bit)?;
            self.stats.shared = self.shared.ram_pages();
            return Ok(Faulted::Served);
        }
        match self.shared.entry(host, page, shared_bit)? {
            SharedEntry::Absent => {
                let ram = &self.ram;
                let touches_ram = |start, end| ram.iter().any(|r| start < r.end && r.start < end);
                self.shared
                    .mark_device(host, page, shared_bit, touches_ram)?;
            }
            SharedEntry::Ram(_) | SharedEntry::Device => {
                return Ok(Faulted::Fault(MemoryFault::Device {
                    gpa: Gpa::new(page),
                }));
            }
        }
        Ok(Faulted::Served)
    }

    fn private_violation<L: SeamcallLp, M: HostMemory>(
        &mut self,
        td: &Td,
        host: &Host<M>,
        lp: &mut L,
        page: u64,
        extended: u64,
    ) -> Result<Faulted, HostError> {
        let kind = extended & 0xF;
        if kind == TYPE_PENDING {
            return Ok(Faulted::Fault(MemoryFault::NotAccepted {
                gpa: Gpa::new(page),
            }));
        }
        let accept_level = (kind == TYPE_ACCEPT).then_some((extended >> 32 & 7) as u8);
        match self.private_page(page) {
            // The guest accepts a 4 KiB page of a 2 MiB one that it has not accepted.
            Some((gpa, mapped)) if mapped.large && accept_level == Some(0) => {
                self.demote(td, host, lp, gpa)?;
                return Ok(Faulted::Served);
            }
            Some(_) => return Ok(Faulted::Present),
            None => {}
        }
        if accept_level == Some(1) && self.fits_large(page) {
            match self.augment(td, host, lp, page & !(LARGE_PAGE - 1), true) {
                Ok(()) => return Ok(Faulted::Served),
                // No 2 MiB block is free: small pages do.
                Err(HostError::OutOfPages) => {}
                Err(refused) => return Err(refused),
            }
        }
        self.augment(td, host, lp, page, false)?;
        Ok(Faulted::Served)
    }

    /// Whether the 2 MiB around a page are private RAM of which nothing is mapped yet.
    fn fits_large(&self, page: u64) -> bool {
        let start = page & !(LARGE_PAGE - 1);
        let end = start + LARGE_PAGE;
        self.is_ram(start, LARGE_PAGE)
            && !self.shared_gpas.touches(start, end)
            && self.private.range(start..end).next().is_none()
            && !self.sept.contains_key(&(1, start))
    }

    /// TDH.MEM.PAGE.AUG: a page that the guest has to accept.
    fn augment<L: SeamcallLp, M: HostMemory>(
        &mut self,
        td: &Td,
        host: &Host<M>,
        lp: &mut L,
        gpa: u64,
        large: bool,
    ) -> Result<(), HostError> {
        self.ensure_sept(td, host, lp, gpa, u8::from(large))?;
        let hpa = if large {
            host.pages().take_large()?
        } else {
            host.pages().take()?
        };
        let page = PrivatePage { hpa, large };
        let mapping = GpaMapping::new(Gpa::new(gpa), page.level());
        if let Err(refused) = retry(|| tdh_mem_page_aug(lp, mapping, td.tdr, hpa)) {
            if large {
                host.pages().give_back_large(hpa);
            } else {
                host.pages().give_back(hpa);
            }
            return Err(refused);
        }
        self.private.insert(gpa, page);
        self.stats.augmented += page.bytes() / PAGE_SIZE;
        self.stats.large += u64::from(large);
        Ok(())
    }
}
