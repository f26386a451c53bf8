//! A TD as its host knows it: keys, control pages, and the memory it was given.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use tdx_call::host::{tdh_mem_sept_add, tdh_mng_rd};
use tdx_call::{FieldId, GpaMapping, HostMemory, SeamcallLp, Tdr, Tdvpr};
use x86_arch::{Gpa, Hkid, Hpa, PAGE_SIZE};

use crate::field;
use crate::ranges::Ranges;
use crate::seam::retry;
use crate::shared_ept::SharedEpt;
use crate::{Host, HostError, TdConfig};

/// A trust domain. Shared by the threads of its vCPUs; what changes is behind locks.
pub struct Td {
    pub(crate) config: TdConfig,
    pub(crate) tdr: Tdr,
    pub(crate) hkid: Hkid,
    pub(crate) finalized: AtomicBool,
    pub(crate) memory: Mutex<TdMemory>,
    /// Makes every vCPU that is inside the TD leave it soon.
    pub(crate) kick: Box<dyn Fn() + Send + Sync>,
}

/// A private page: where it lies, and whether it is a 2 MiB one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PrivatePage {
    pub hpa: Hpa,
    pub large: bool,
}

/// Everything of the TD's that costs host pages.
#[derive(Debug)]
pub(crate) struct TdMemory {
    /// Guest RAM, shared bit clear, ascending.
    pub ram: Vec<Range<u64>>,
    /// Whether the TDR exists, and whether its keys were configured.
    pub tdr_created: bool,
    /// TDCX pages of the TD and all pages of its vCPUs.
    pub control: Vec<Hpa>,
    /// vCPUs that the module initialised, and those of them that the caller has.
    pub vcpus_initialised: u16,
    pub vcpus: u16,
    /// vCPUs that the module initialised and the caller never got, and the processor that each is on.
    pub stranded: Vec<(Tdvpr, usize)>,
    /// Secure EPT pages by the level of the entry that points to them and the GPA they begin at.
    pub sept: BTreeMap<(u8, u64), Hpa>,
    pub private: BTreeMap<u64, PrivatePage>,
    /// GPAs (shared bit clear) that the guest made shared.
    pub shared_gpas: Ranges,
    pub shared: SharedEpt,
    /// Posted-interrupt descriptors.
    pub descriptors: Vec<Hpa>,
    /// Pages that left the TD but could not be flushed or tracked: nobody may use them before the TD is gone.
    pub quarantine: Vec<Hpa>,
    pub stats: TdStats,
}

/// What happened to the TD's memory so far, in 4 KiB pages unless named otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TdStats {
    /// Added and, if asked, measured before finalizing.
    pub added: u64,
    /// Given on demand after finalizing; each 2 MiB page counts as 512.
    pub augmented: u64,
    /// Of those, 2 MiB pages.
    pub large: u64,
    /// Taken back by conversions.
    pub removed: u64,
    /// Shared pages that the host backs now.
    pub shared: u64,
    /// 2 MiB pages broken up.
    pub demoted: u64,
}

impl fmt::Debug for Td {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Td")
            .field("tdr", &self.tdr)
            .field("hkid", &self.hkid)
            .field("finalized", &self.finalized)
            .finish_non_exhaustive()
    }
}

impl Td {
    pub fn config(&self) -> &TdConfig {
        &self.config
    }
    /// The address of the TDR page: the TD's name in every SEAMCALL.
    pub fn tdr(&self) -> Tdr {
        self.tdr
    }
    pub fn hkid(&self) -> Hkid {
        self.hkid
    }
    pub fn stats(&self) -> TdStats {
        self.lock().stats
    }
    pub fn is_finalized(&self) -> bool {
        self.finalized.load(Ordering::Acquire)
    }
    /// Pages the host holds for this TD: control structures, Secure EPT, private and shared memory.
    pub fn pages_held(&self) -> u64 {
        self.lock().pages_held()
    }

    /// Declares guest RAM. GPAs have the shared bit clear; ranges are 4 KiB aligned and must not overlap.
    pub fn add_ram(&self, ram: Range<u64>) -> Result<(), HostError> {
        let bad = ram.start >= ram.end
            || !ram.start.is_multiple_of(PAGE_SIZE)
            || !ram.end.is_multiple_of(PAGE_SIZE)
            || ram.end > self.config.shared_bit();
        let mut memory = self.lock();
        let overlaps = memory
            .ram
            .iter()
            .any(|other| ram.start < other.end && other.start < ram.end);
        if bad || overlaps {
            return Err(HostError::BadRange {
                gpa: Gpa::new(ram.start),
                size: ram.end.wrapping_sub(ram.start),
            });
        }
        memory.ram.push(ram);
        memory.ram.sort_by_key(|range| range.start);
        Ok(())
    }

    /// Whether the whole range is guest RAM; `gpa` has the shared bit clear.
    pub fn is_ram(&self, gpa: Gpa, size: u64) -> bool {
        self.lock().is_ram(gpa.raw(), size)
    }

    /// Whether any byte of the range is guest RAM.
    pub fn touches_ram(&self, gpa: Gpa, size: u64) -> bool {
        let (start, end) = (gpa.raw(), gpa.raw().saturating_add(size));
        let memory = self.lock();
        memory
            .ram
            .iter()
            .any(|ram| start < ram.end && ram.start < end)
    }

    /// MRTD as the host reads it (TDH.MNG.RD): of a DEBUG TD only, `None` for a production TD.
    pub fn mrtd<L: SeamcallLp>(&self, lp: &mut L) -> Result<Option<[u8; 48]>, HostError> {
        if !self.config.is_debug() {
            return Ok(None);
        }
        let mut mrtd = [0; 48];
        for (i, word) in mrtd.chunks_exact_mut(8).enumerate() {
            let value = self.read_field(lp, field::td::MRTD + i as u64)?;
            word.copy_from_slice(&value.to_le_bytes());
        }
        Ok(Some(mrtd))
    }

    /// TSC offset and multiplier (16.48 fixed point) of the guest's clock.
    pub fn tsc<L: SeamcallLp>(&self, lp: &mut L) -> Result<(u64, u64), HostError> {
        Ok((
            self.read_field(lp, field::td::TSC_OFFSET)?,
            self.read_field(lp, field::td::TSC_MULTIPLIER)?,
        ))
    }

    /// TDH.MNG.RD of one metadata field.
    pub fn read_field<L: SeamcallLp>(&self, lp: &mut L, id: u64) -> Result<u64, HostError> {
        retry(|| tdh_mng_rd(lp, self.tdr, FieldId(id)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, TdMemory> {
        self.memory
            .lock()
            .expect("no holder of a TD's memory panics")
    }
}

impl TdMemory {
    pub(crate) fn new(shared: SharedEpt) -> Self {
        Self {
            ram: Vec::new(),
            tdr_created: false,
            control: Vec::new(),
            vcpus_initialised: 0,
            vcpus: 0,
            stranded: Vec::new(),
            sept: BTreeMap::new(),
            private: BTreeMap::new(),
            shared_gpas: Ranges::default(),
            shared,
            descriptors: Vec::new(),
            quarantine: Vec::new(),
            stats: TdStats::default(),
        }
    }

    /// Whether the whole range is guest RAM.
    pub(crate) fn is_ram(&self, start: u64, size: u64) -> bool {
        self.ram.iter().any(|ram| {
            ram.start <= start && start.checked_add(size).is_some_and(|end| end <= ram.end)
        })
    }

    /// The private page that holds `gpa`, and the GPA it begins at.
    pub(crate) fn private_page(&self, gpa: u64) -> Option<(u64, PrivatePage)> {
        let (&start, &page) = self.private.range(..=gpa).next_back()?;
        (gpa < start + page.bytes()).then_some((start, page))
    }

    pub(crate) fn pages_held(&self) -> u64 {
        let private: u64 = self.private.values().map(|p| p.bytes() / PAGE_SIZE).sum();
        u64::from(self.tdr_created)
            + self.control.len() as u64
            + self.sept.len() as u64
            + private
            + self.shared.pages_held()
            + self.descriptors.len() as u64
            + self.quarantine.len() as u64
    }

    /// Adds the Secure EPT pages that a leaf at `level` for `gpa` needs, from the root down.
    pub(crate) fn ensure_sept<L: SeamcallLp, M: HostMemory>(
        &mut self,
        td: &Td,
        host: &Host<M>,
        lp: &mut L,
        gpa: u64,
        leaf_level: u8,
    ) -> Result<(), HostError> {
        for level in (leaf_level + 1..td.config.ept_levels()).rev() {
            let start = gpa & !(level_bytes(level) - 1);
            if self.sept.contains_key(&(level, start)) {
                continue;
            }
            let page = host.pages().take()?;
            let mapping = GpaMapping::new(Gpa::new(start), level);
            match retry(|| tdh_mem_sept_add(lp, mapping, td.tdr, page)) {
                Ok(_) => self.sept.insert((level, start), page),
                Err(refused) => {
                    host.pages().give_back(page);
                    return Err(refused);
                }
            };
        }
        Ok(())
    }
}

impl PrivatePage {
    pub(crate) fn bytes(self) -> u64 {
        if self.large {
            crate::pages::LARGE_PAGE
        } else {
            PAGE_SIZE
        }
    }
    pub(crate) fn level(self) -> u8 {
        u8::from(self.large)
    }
}

/// Bytes that an EPT entry of this level covers: 4 KiB at level 0.
pub(crate) const fn level_bytes(level: u8) -> u64 {
    PAGE_SIZE << (9 * level)
}
