//! The physical-address metadata: which use every 4 KiB page of TDMR memory has, who owns it, since which epoch it is
//! blocked (spec: host-platform.md 4).
//!
//! The structure is sparse: a block of entries is made when a page in it is first looked at, so its size follows the
//! pages that are really used, not the TDMRs.

use crate::call::Commit;
use crate::lock::{Contended, Hold, HpLock, Side};
use crate::td::Td;
use crate::tdmr::Tdmr;
use crate::vp::Vp;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::{Mutex, Once};
pub use tdx_abi::PageType;
use x86_arch::Hpa;

/// Size of a page or of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum PageSize {
    Size4K = 0,
    Size2M = 1,
    Size1G = 2,
}

impl PageSize {
    pub const fn from_level(level: u8) -> Option<PageSize> {
        match level {
            0 => Some(PageSize::Size4K),
            1 => Some(PageSize::Size2M),
            2 => Some(PageSize::Size1G),
            _ => None,
        }
    }
    pub const fn level(self) -> u8 {
        self as u8
    }
    pub const fn bytes(self) -> u64 {
        4096 << (9 * self as u32)
    }
    /// How many 4 KiB pages it is.
    pub const fn pages(self) -> u64 {
        1 << (9 * self as u32)
    }
}

/// What a page is used for. The page that is a control structure owns the structure.
#[derive(Default)]
pub enum PageUse {
    /// PT_NDA: not assigned.
    #[default]
    Free,
    /// PT_RSVD: in a reserved area of its TDMR.
    Reserved,
    /// PT_REG: private memory of a TD.
    Regular,
    /// PT_TDR: the root page of a TD.
    Tdr(Box<Td>),
    /// PT_TDCX: a further page of TDCS or TDVPS.
    Tdcx,
    /// PT_TDVPR: the root page of a vCPU.
    Tdvpr(Box<Vp>),
    /// PT_EPT: a Secure-EPT page.
    SecureEpt,
}

impl PageUse {
    pub const fn page_type(&self) -> PageType {
        match self {
            PageUse::Free => PageType::Nda,
            PageUse::Reserved => PageType::Rsvd,
            PageUse::Regular => PageType::Reg,
            PageUse::Tdr(_) => PageType::Tdr,
            PageUse::Tdcx => PageType::Tdcx,
            PageUse::Tdvpr(_) => PageType::Tdvpr,
            PageUse::SecureEpt => PageType::Ept,
        }
    }
}

/// One PAMT entry.
#[derive(Default)]
pub struct PamtEntry {
    page: HpLock<PageUse>,
    /// TDR address; kept when the page is freed, as the module keeps it.
    owner: AtomicU64,
    /// TD epoch at which the page was blocked, or with bit 63 the migration epoch.
    bepoch: AtomicU64,
}

impl PamtEntry {
    pub fn owner(&self) -> Hpa {
        Hpa::new(self.owner.load(Ordering::Relaxed))
    }
    pub fn bepoch(&self) -> u64 {
        self.bepoch.load(Ordering::Relaxed)
    }
    pub fn set_bepoch(&self, _: &Commit, epoch: u64) {
        self.bepoch.store(epoch, Ordering::Relaxed);
    }
    /// The lock of this entry alone, without those above it: for an implicit TDR (spec: host-platform.md 6, B3).
    pub fn lock(&self) -> &HpLock<PageUse> {
        &self.page
    }
}

/// What is locked on the way to a page, and the page's entry.
pub struct Walk<'m> {
    pub size: PageSize,
    pub entry: &'m PamtEntry,
    pub page: Hold<'m, PageUse>,
    /// Shared locks of the 1G and 2M entries above.
    _above: [Option<Hold<'m, PageUse>>; 2],
}

impl Walk<'_> {
    /// Gives a free page its use. The walk must be exclusive.
    pub fn assign(&mut self, commit: &Commit, to: PageUse, owner: Hpa) {
        self.entry.owner.store(owner.raw(), Ordering::Relaxed);
        self.entry.set_bepoch(commit, 0);
        self.put(to);
    }
    /// Frees the page; its owner and epoch stay readable, as the module leaves them.
    pub fn free(&mut self, _: &Commit) -> PageUse {
        self.put(PageUse::Free)
    }
    fn put(&mut self, to: PageUse) -> PageUse {
        let page = self.page.get_mut().expect("an exclusive walk");
        core::mem::replace(page, to)
    }
}

/// Why a walk does not reach a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkError {
    /// Outside every TDMR, or not initialised yet.
    OutOfRange,
    Contended(Contended),
}

impl From<Contended> for WalkError {
    fn from(why: Contended) -> Self {
        WalkError::Contended(why)
    }
}

/// Which kind of lock the target of a walk gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    Shared,
    Exclusive,
}

const GROUP: usize = 64;

struct Block2M {
    entry: PamtEntry,
    /// 512 entries in groups that are made when needed.
    groups: [Once<Box<[PamtEntry; GROUP]>>; 512 / GROUP],
}

struct Block1G {
    entry: PamtEntry,
    blocks: Box<[Once<Box<Block2M>>]>,
}

/// A TDMR with its part of the PAMT.
pub struct TdmrPamt {
    pub tdmr: Tdmr,
    /// How far TDMR.INIT got; also the TDMR's mutex.
    pub progress: Mutex<()>,
    initialized: AtomicU64,
    blocks: Box<[Once<Box<Block1G>>]>,
}

impl TdmrPamt {
    /// The first address that TDMR.INIT has not reached.
    pub fn initialized(&self) -> u64 {
        self.initialized.load(Ordering::Acquire)
    }
    pub fn advance(&self, _: &Commit, to: u64) {
        self.initialized.store(to, Ordering::Release);
    }
    fn usable_end(&self) -> u64 {
        self.initialized() & !(PageSize::Size1G.bytes() - 1)
    }
    fn block_1g(&self, hpa: Hpa) -> &Block1G {
        let index = (hpa.raw() - self.tdmr.base) / PageSize::Size1G.bytes();
        self.blocks[index as usize].call_once(|| {
            Box::new(Block1G {
                entry: PamtEntry::default(),
                blocks: (0..512).map(|_| Once::new()).collect(),
            })
        })
    }
    fn block_2m<'m>(&self, block: &'m Block1G, hpa: Hpa) -> &'m Block2M {
        let index = hpa.raw() / PageSize::Size2M.bytes() % 512;
        block.blocks[index as usize].call_once(|| {
            Box::new(Block2M {
                entry: PamtEntry::default(),
                groups: [const { Once::new() }; 512 / GROUP],
            })
        })
    }
    fn entry_4k<'m>(&self, block: &'m Block2M, hpa: Hpa) -> &'m PamtEntry {
        let index = (hpa.raw() / 4096 % 512) as usize;
        let group = block.groups[index / GROUP].call_once(|| {
            let first = hpa.raw() & !(GROUP as u64 * 4096 - 1);
            Box::new(core::array::from_fn(|i| PamtEntry {
                page: HpLock::new(self.tdmr.initial_use(Hpa::new(first + i as u64 * 4096))),
                ..PamtEntry::default()
            }))
        });
        &group[index % GROUP]
    }
}

/// The PAMTs of all TDMRs, in address order.
pub struct Pamt {
    tdmrs: Box<[TdmrPamt]>,
}

impl Pamt {
    pub fn new(tdmrs: Vec<Tdmr>) -> Pamt {
        let tdmrs = tdmrs.into_iter().map(|tdmr| TdmrPamt {
            progress: Mutex::new(()),
            initialized: AtomicU64::new(tdmr.base),
            blocks: (0..tdmr.size / PageSize::Size1G.bytes())
                .map(|_| Once::new())
                .collect(),
            tdmr,
        });
        Pamt {
            tdmrs: tdmrs.collect(),
        }
    }
    pub fn tdmrs(&self) -> &[TdmrPamt] {
        &self.tdmrs
    }
    fn tdmr_of(&self, hpa: Hpa) -> Option<&TdmrPamt> {
        self.tdmrs
            .iter()
            .find(|t| (t.tdmr.base..t.usable_end()).contains(&hpa.raw()))
    }

    /// Locks the path to the page's entry: shared above, as wanted at the target. The target is the entry of the
    /// `wanted` size, or the largest entry that is in use as private memory (spec: host-platform.md 4, `pamt_walk`).
    pub fn walk(
        &self,
        hpa: Hpa,
        want: Want,
        wanted: Option<PageSize>,
    ) -> Result<Walk<'_>, WalkError> {
        let tdmr = self.tdmr_of(hpa).ok_or(WalkError::OutOfRange)?;
        let block = tdmr.block_1g(hpa);
        let above_1g = match step(&block.entry, want, wanted == Some(PageSize::Size1G))? {
            Step::Leaf(page) => {
                return Ok(Walk::new(
                    PageSize::Size1G,
                    &block.entry,
                    page,
                    [None, None],
                ));
            }
            Step::Down(hold) => hold,
        };
        let block = tdmr.block_2m(block, hpa);
        let above_2m = match step(&block.entry, want, wanted == Some(PageSize::Size2M))? {
            Step::Leaf(page) => {
                return Ok(Walk::new(
                    PageSize::Size2M,
                    &block.entry,
                    page,
                    [Some(above_1g), None],
                ));
            }
            Step::Down(hold) => hold,
        };
        let entry = tdmr.entry_4k(block, hpa);
        let page = hold(entry, want)?;
        Ok(Walk::new(
            PageSize::Size4K,
            entry,
            page,
            [Some(above_1g), Some(above_2m)],
        ))
    }

    /// Locks the entry of a mapping exclusively and nothing above it: for pages that the Secure EPT names.
    pub fn lock_alone(&self, hpa: Hpa, size: PageSize) -> Result<Walk<'_>, WalkError> {
        let entry = self.entry_of_size(hpa, size).ok_or(WalkError::OutOfRange)?;
        let page = hold(entry, Want::Exclusive)?;
        Ok(Walk::new(size, entry, page, [None, None]))
    }

    /// The 4K entry of a page, unlocked.
    pub fn entry(&self, hpa: Hpa) -> Option<&PamtEntry> {
        let tdmr = self.tdmr_of(hpa)?;
        Some(tdmr.entry_4k(tdmr.block_2m(tdmr.block_1g(hpa), hpa), hpa))
    }
    /// The 4K entry of a page, if it was ever looked at. Makes nothing.
    pub fn known_entry(&self, hpa: Hpa) -> Option<&PamtEntry> {
        let tdmr = self.tdmr_of(hpa)?;
        let index = (hpa.raw() - tdmr.tdmr.base) / PageSize::Size1G.bytes();
        let block = tdmr.blocks[index as usize].get()?;
        let index = hpa.raw() / PageSize::Size2M.bytes() % 512;
        let block = block.blocks[index as usize].get()?;
        let index = (hpa.raw() / 4096 % 512) as usize;
        Some(&block.groups[index / GROUP].get()?[index % GROUP])
    }
    /// The entry of a mapping of this size, unlocked: its use follows from the Secure EPT.
    pub fn entry_of_size(&self, hpa: Hpa, size: PageSize) -> Option<&PamtEntry> {
        let tdmr = self.tdmr_of(hpa)?;
        let block = tdmr.block_1g(hpa);
        Some(match size {
            PageSize::Size1G => &block.entry,
            PageSize::Size2M => &tdmr.block_2m(block, hpa).entry,
            PageSize::Size4K => tdmr.entry_4k(tdmr.block_2m(block, hpa), hpa),
        })
    }
    /// Whether every 4 KiB page of a 2 MiB range is free; the range's 2M entry must be locked exclusively.
    pub fn all_free_below(&self, hpa: Hpa) -> bool {
        let Some(tdmr) = self.tdmr_of(hpa) else {
            return false;
        };
        let block = tdmr.block_2m(tdmr.block_1g(hpa), hpa);
        let start = hpa.raw() & !(PageSize::Size2M.bytes() - 1);
        block
            .groups
            .iter()
            .enumerate()
            .all(|(i, group)| match group.get() {
                Some(entries) => entries.iter().all(|entry| {
                    let page = entry.page.shared(Side::Host);
                    page.is_ok_and(|page| page.page_type() == PageType::Nda)
                }),
                None => {
                    let first = start + (i * GROUP) as u64 * 4096;
                    !tdmr.tdmr.any_reserved(first, GROUP as u64 * 4096)
                }
            })
    }

    /// Makes one entry of 512: the parent of `size` takes use and owner of its first child, all children become free
    /// (spec: host-platform.md 4, PROMOTE). The children must be regular pages of one owner.
    pub fn promote(&self, hpa: Hpa, size: PageSize) -> Result<Promotion<'_>, WalkError> {
        let tdmr = self.tdmr_of(hpa).ok_or(WalkError::OutOfRange)?;
        let entry = self.entry_of_size(hpa, size).ok_or(WalkError::OutOfRange)?;
        let page = hold(entry, Want::Exclusive)?;
        Ok(Promotion {
            pamt: self,
            _tdmr: tdmr,
            hpa,
            size,
            entry,
            page,
        })
    }

    /// Every entry that was ever looked at, with its address and size: for consistency checks.
    pub fn for_each(&self, mut f: impl FnMut(Hpa, PageSize, &PamtEntry)) {
        for tdmr in &self.tdmrs {
            for (g, block) in tdmr.blocks.iter().enumerate() {
                let Some(block) = block.get() else { continue };
                let base = tdmr.tdmr.base + g as u64 * PageSize::Size1G.bytes();
                f(Hpa::new(base), PageSize::Size1G, &block.entry);
                for (m, block) in block.blocks.iter().enumerate() {
                    let Some(block) = block.get() else { continue };
                    let base = base + m as u64 * PageSize::Size2M.bytes();
                    f(Hpa::new(base), PageSize::Size2M, &block.entry);
                    for (k, group) in block.groups.iter().enumerate() {
                        let Some(group) = group.get() else { continue };
                        for (i, entry) in group.iter().enumerate() {
                            let index = (k * GROUP + i) as u64;
                            f(Hpa::new(base + index * 4096), PageSize::Size4K, entry);
                        }
                    }
                }
            }
        }
    }
}

/// The exclusively locked entry of a large range that is about to be merged or split.
pub struct Promotion<'m> {
    pamt: &'m Pamt,
    _tdmr: &'m TdmrPamt,
    hpa: Hpa,
    size: PageSize,
    entry: &'m PamtEntry,
    page: Hold<'m, PageUse>,
}

impl Promotion<'_> {
    fn children(&self) -> impl Iterator<Item = &PamtEntry> {
        let below = match self.size {
            PageSize::Size1G => PageSize::Size2M,
            _ => PageSize::Size4K,
        };
        let base = self.hpa.raw() & !(self.size.bytes() - 1);
        (0..512).filter_map(move |i| {
            self.pamt
                .entry_of_size(Hpa::new(base + i * below.bytes()), below)
        })
    }
    /// 512 pages become one.
    pub fn merge(&mut self, commit: &Commit) {
        let owner = self.children().next().map_or(Hpa::new(0), PamtEntry::owner);
        for child in self.children() {
            set_use(child, PageUse::Free);
        }
        self.entry.owner.store(owner.raw(), Ordering::Relaxed);
        let _ = commit;
        if let Some(page) = self.page.get_mut() {
            *page = PageUse::Regular;
        }
    }
    /// One page becomes 512, with epoch 0.
    pub fn split(&mut self, commit: &Commit) {
        let owner = self.entry.owner();
        for child in self.children() {
            set_use(child, PageUse::Regular);
            child.owner.store(owner.raw(), Ordering::Relaxed);
            child.set_bepoch(commit, 0);
        }
        if let Some(page) = self.page.get_mut() {
            *page = PageUse::Free;
        }
    }
}

/// Sets a child's use; its parent is locked exclusively, so nobody can be on the way to it.
fn set_use(entry: &PamtEntry, to: PageUse) {
    if let Ok(mut page) = entry.page.exclusive(Side::Host) {
        *page = to;
    }
}

enum Step<'m> {
    Leaf(Hold<'m, PageUse>),
    Down(Hold<'m, PageUse>),
}

fn step(entry: &PamtEntry, want: Want, is_target: bool) -> Result<Step<'_>, Contended> {
    let shared = entry.page.shared(Side::Host)?;
    if !is_target && shared.page_type() != PageType::Reg {
        return Ok(Step::Down(Hold::Shared(shared)));
    }
    match want {
        Want::Shared => Ok(Step::Leaf(Hold::Shared(shared))),
        Want::Exclusive => {
            drop(shared);
            Ok(Step::Leaf(hold(entry, want)?))
        }
    }
}

fn hold(entry: &PamtEntry, want: Want) -> Result<Hold<'_, PageUse>, Contended> {
    Ok(match want {
        Want::Shared => Hold::Shared(entry.page.shared(Side::Host)?),
        Want::Exclusive => Hold::Exclusive(entry.page.exclusive(Side::Host)?),
    })
}

impl<'m> Walk<'m> {
    fn new(
        size: PageSize,
        entry: &'m PamtEntry,
        page: Hold<'m, PageUse>,
        above: [Option<Hold<'m, PageUse>>; 2],
    ) -> Self {
        Walk {
            size,
            entry,
            page,
            _above: above,
        }
    }
}
