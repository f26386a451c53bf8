//! The soft TLB: linear pages to pages of RAM.
//!
//! Direct-mapped, one array for each kind of access. The low 12 bits of an entry's tag hold the address space (a
//! slot for each VPID and PCID) and the permission class of the access (user, supervisor, supervisor that SMAP
//! keeps from user pages), so that neither CR3 switches with PCIDs nor changes of privilege flush anything.
//! Everything else that permissions depend on (CR0.WP, CR4, EFER.NXE, protection keys) flushes when it changes.

use crate::translate::fast::Fast;
use x86_arch::{Access, Gpa, KeyedHpa, RamPage};

pub(crate) const SETS: usize = 1024;
const GUEST_PHYSICAL_SETS: usize = 512;
const SLOTS: usize = 256;
/// In no tag of an entry: accesses with it always take the slow path.
pub(crate) const SLOW: u64 = 1 << 11;
/// The permission bit of tags that does not matter for fetches: SMAP keeps no code from running.
pub(crate) const DATA_ONLY: u64 = 2;

pub struct Entry<P> {
    /// Linear page number << 12, address-space slot << 2, class; `u64::MAX` when empty.
    tag: u64,
    /// log2 of the mapping's size, for INVLPG.
    size: u8,
    pub page: Option<P>,
}

impl<P> Entry<P> {
    const fn empty() -> Self {
        Entry {
            tag: u64::MAX,
            size: 12,
            page: None,
        }
    }
}

/// A cached second-level translation.
pub struct PhysicalEntry<P> {
    /// Guest-physical page | VPID slot; `u64::MAX` when empty.
    tag: u64,
    pub page: KeyedHpa,
    pub read: bool,
    pub write: bool,
    pub execute: bool,
    pub ram: Option<P>,
}

/// The page that instructions are fetched from.
#[derive(Clone, Copy)]
pub struct CodeEntry {
    tag: u64,
    size: u8,
    pub page: KeyedHpa,
    /// The number of the decoded page, for this state of the code cache and this decode mode.
    pub decoded: Option<Decoded>,
}

/// Where the decoded form of a code page is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    pub number: usize,
    pub epoch: u64,
    pub mode: crate::cpu::Mode,
}

pub struct Tlb<P> {
    pub(crate) read: Box<[Entry<P>; SETS]>,
    pub(crate) write: Box<[Entry<P>; SETS]>,
    code: Box<[CodeEntry; SETS]>,
    physical: Box<[PhysicalEntry<P>]>,
    /// The (VPID, PCID) of each slot; `None` when unused.
    spaces: Vec<Option<(u16, u16)>>,
    current: usize,
    next_victim: usize,
    vpid: u16,
    /// Entries of large pages may be present.
    large: bool,
    /// Changes with every flush, so that the run loop looks its code page up again.
    pub generation: u64,
    /// What translated code reads; `None` when nothing is translated.
    pub(crate) fast: Option<Box<Fast>>,
}

impl<P: RamPage> Default for Tlb<P> {
    fn default() -> Self {
        Tlb {
            read: sets(Entry::empty),
            write: sets(Entry::empty),
            code: sets(|| EMPTY_CODE),
            physical: (0..GUEST_PHYSICAL_SETS).map(|_| empty_physical()).collect(),
            spaces: vec![None; SLOTS],
            current: 0,
            next_victim: 0,
            vpid: 0,
            large: false,
            generation: 0,
            fast: None,
        }
    }
}

/// An array of fixed length, so that a set number needs no check; made on the heap.
fn sets<T>(empty: impl Fn() -> T) -> Box<[T; SETS]> {
    let all: Vec<T> = (0..SETS).map(|_| empty()).collect();
    match all.try_into() {
        Ok(array) => array,
        Err(_) => unreachable!("the vector has that length"),
    }
}

const EMPTY_CODE: CodeEntry = CodeEntry {
    tag: u64::MAX,
    size: 12,
    page: KeyedHpa::new(x86_arch::Hpa::new(0), x86_arch::Hkid(0)),
    decoded: None,
};

fn empty_physical<P>() -> PhysicalEntry<P> {
    PhysicalEntry {
        tag: u64::MAX,
        page: EMPTY_CODE.page,
        read: false,
        write: false,
        execute: false,
        ram: None,
    }
}

#[inline(always)]
pub(crate) fn set_of(linear: u64) -> usize {
    (linear >> 12) as usize & (SETS - 1)
}

impl<P: RamPage> Tlb<P> {
    /// Bytes that the TLB takes, and what mirrors it.
    pub fn bytes(&self) -> usize {
        let own = size_of_val(&*self.read)
            + size_of_val(&*self.write)
            + size_of_val(&*self.code)
            + size_of_val(&*self.physical);
        own + self.fast.as_ref().map_or(0, |fast| fast.bytes())
    }

    /// The tag bits of an access in the current address space.
    pub fn tag(&self, class: u64, slow: bool) -> u64 {
        (self.current as u64) << 2 | class | if slow { SLOW } else { 0 }
    }

    #[inline(always)]
    pub(crate) fn matches(entry: &Entry<P>, linear: u64, tag: u64) -> bool {
        entry.tag == (linear & !0xFFF) | tag
    }

    pub fn fill(&mut self, access: Access, linear: u64, tag: u64, size: u8, page: P) {
        if tag & SLOW != 0 {
            return;
        }
        self.large |= size > 12;
        let array = match access {
            Access::Read => &mut self.read,
            Access::Write => &mut self.write,
            Access::Execute => return,
        };
        let new = linear & !0xFFF | tag;
        let old = std::mem::replace(
            &mut array[set_of(linear)],
            Entry {
                tag: new,
                size,
                page: Some(page),
            },
        );
        if let Some(fast) = &mut self.fast
            && old.tag != u64::MAX
        {
            fast.drop_entry(access, old.tag, set_of(linear));
        }
    }

    #[inline(always)]
    pub fn code(&mut self, linear: u64, tag: u64) -> Option<&mut CodeEntry> {
        let entry = &mut self.code[set_of(linear)];
        (entry.tag == (linear & !0xFFF) | tag & !(SLOW | DATA_ONLY)).then_some(entry)
    }

    pub fn fill_code(&mut self, linear: u64, tag: u64, size: u8, page: KeyedHpa) {
        self.large |= size > 12;
        let entry = &mut self.code[set_of(linear)];
        if let Some(fast) = &mut self.fast
            && entry.tag != u64::MAX
        {
            fast.drop_page(entry.tag);
        }
        *entry = CodeEntry {
            tag: linear & !0xFFF | tag & !(SLOW | DATA_ONLY),
            size,
            page,
            decoded: None,
        };
    }

    pub fn physical(&self, gpa_page: u64) -> Option<&PhysicalEntry<P>> {
        let entry = &self.physical[(gpa_page >> 12) as usize & (GUEST_PHYSICAL_SETS - 1)];
        (entry.tag == gpa_page).then_some(entry)
    }

    pub fn fill_physical(
        &mut self,
        gpa_page: u64,
        page: KeyedHpa,
        rwx: (bool, bool, bool),
        ram: Option<P>,
    ) {
        self.physical[(gpa_page >> 12) as usize & (GUEST_PHYSICAL_SETS - 1)] = PhysicalEntry {
            tag: gpa_page,
            page,
            read: rwx.0,
            write: rwx.1,
            execute: rwx.2,
            ram,
        };
    }

    /// Makes (`vpid`, `pcid`) the current address space.
    pub fn enter_space(&mut self, vpid: u16, pcid: u16) {
        if vpid != self.vpid {
            // Second-level translations carry no tag: another VM's go.
            self.vpid = vpid;
            self.drop_physical();
        }
        if let Some(slot) = self.slot(vpid, pcid) {
            self.current = slot;
            return;
        }
        let slot = self.next_victim;
        self.next_victim = (slot + 1) % SLOTS;
        if self.spaces[slot].is_some() {
            self.flush_slot(slot);
        }
        self.spaces[slot] = Some((vpid, pcid));
        self.current = slot;
        self.generation += 1;
    }

    fn slot(&self, vpid: u16, pcid: u16) -> Option<usize> {
        if self.spaces[self.current] == Some((vpid, pcid)) {
            return Some(self.current);
        }
        self.spaces.iter().position(|s| *s == Some((vpid, pcid)))
    }

    /// Drops the translations of one address space (global ones as well: a processor may at any time).
    pub fn flush_space(&mut self, vpid: u16, pcid: u16) {
        if let Some(slot) = self.slot(vpid, pcid) {
            self.flush_slot(slot);
        }
    }

    fn flush_slot(&mut self, slot: usize) {
        let number = slot as u64;
        self.retain(|tag, _| tag >> 2 & 0xFF != number);
        if let Some(fast) = &mut self.fast {
            fast.renew_space(slot);
        }
    }

    /// Drops all linear translations of all address spaces.
    pub fn flush_linear(&mut self) {
        self.retain(|_, _| false);
        self.renew_jumps();
        self.large = false;
    }

    /// Drops everything, second level included.
    pub fn flush_all(&mut self) {
        self.flush_linear();
        self.drop_physical();
    }

    /// Drops everything of a VPID, second level included.
    pub fn flush_vpid(&mut self, vpid: u16) {
        let dead: Vec<bool> = self
            .spaces
            .iter()
            .map(|s| s.is_some_and(|(v, _)| v == vpid))
            .collect();
        self.retain(|tag, _| !dead[(tag >> 2 & 0xFF) as usize]);
        self.renew_jumps();
        if vpid == self.vpid {
            self.drop_physical();
        }
    }

    fn drop_physical(&mut self) {
        for entry in &mut self.physical {
            if entry.tag != u64::MAX {
                *entry = empty_physical();
            }
        }
        self.generation += 1;
    }

    /// INVLPG: drops the page's translations in every address space.
    pub fn flush_page(&mut self, linear: u64) {
        if self.large {
            self.retain(|tag, size| (tag ^ linear) >> size != 0);
            self.renew_jumps();
            return;
        }
        let set = set_of(linear);
        let same = |tag: u64| (tag ^ linear) >> 12 == 0;
        for (access, array) in [
            (Access::Read, &mut self.read),
            (Access::Write, &mut self.write),
        ] {
            let entry = &mut array[set];
            if same(entry.tag) {
                if let Some(fast) = &mut self.fast {
                    fast.drop_entry(access, entry.tag, set);
                }
                *entry = Entry::empty();
            }
        }
        if same(self.code[set].tag) {
            self.code[set] = EMPTY_CODE;
            if let Some(fast) = &mut self.fast {
                fast.drop_page(linear);
            }
        }
        self.generation += 1;
    }

    fn renew_jumps(&mut self) {
        if let Some(fast) = &mut self.fast {
            fast.renew_all();
        }
    }

    fn retain(&mut self, keep: impl Fn(u64, u8) -> bool) {
        for (access, array) in [
            (Access::Read, &mut self.read),
            (Access::Write, &mut self.write),
        ] {
            for (set, entry) in array.iter_mut().enumerate() {
                if entry.tag != u64::MAX && !keep(entry.tag, entry.size) {
                    if let Some(fast) = &mut self.fast {
                        fast.drop_entry(access, entry.tag, set);
                    }
                    *entry = Entry::empty();
                }
            }
        }
        for entry in self.code.iter_mut() {
            if entry.tag != u64::MAX && !keep(entry.tag, entry.size) {
                *entry = EMPTY_CODE;
            }
        }
        self.generation += 1;
    }
}

/// A translation that is held, as far as its kind of entry knows it.
pub enum Cached<'a, P> {
    /// A linear page for data.
    Linear(&'a P),
    /// A linear page for instructions.
    Code(KeyedHpa),
    GuestPhysical(Gpa, KeyedHpa),
}

impl<P: RamPage> Tlb<P> {
    /// Every translation with its VPID: for checks from outside.
    pub fn cached(&self) -> impl Iterator<Item = (u16, Cached<'_, P>)> {
        let vpid_of =
            |tag: u64| self.spaces[(tag >> 2) as usize & (SLOTS - 1)].map(|(vpid, _)| vpid);
        let data = self.read.iter().chain(self.write.iter());
        let data = data.filter(|entry| entry.tag != u64::MAX);
        let data = data.filter_map(move |entry| {
            Some((vpid_of(entry.tag)?, Cached::Linear(entry.page.as_ref()?)))
        });
        let code = self.code.iter().filter(|entry| entry.tag != u64::MAX);
        let code =
            code.filter_map(move |entry| Some((vpid_of(entry.tag)?, Cached::Code(entry.page))));
        let physical = self.physical.iter();
        let physical = physical.filter(|entry| entry.tag != u64::MAX).map(|entry| {
            let gpa = Gpa::new(entry.tag);
            (self.vpid, Cached::GuestPhysical(gpa, entry.page))
        });
        data.chain(code).chain(physical)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flat::FlatPage;

    #[test]
    fn invlpg_of_a_large_page_drops_all_its_fragments() {
        let mut tlb: Tlb<FlatPage> = Tlb::default();
        tlb.enter_space(1, 0);
        let tag = tlb.tag(0, false);
        for page in [0x20_0000u64, 0x3F_F000] {
            tlb.fill(Access::Read, page, tag, 21, FlatPage::default());
        }
        tlb.flush_page(0x30_0000);
        for page in [0x20_0000u64, 0x3F_F000] {
            assert!(!Tlb::matches(&tlb.read[set_of(page)], page, tag));
        }
    }

    #[test]
    fn address_spaces_do_not_see_each_other() {
        let mut tlb: Tlb<FlatPage> = Tlb::default();
        tlb.enter_space(1, 1);
        let one = tlb.tag(0, false);
        tlb.fill(Access::Read, 0x5000, one, 12, FlatPage::default());
        tlb.enter_space(1, 2);
        let two = tlb.tag(0, false);
        assert!(!Tlb::matches(&tlb.read[set_of(0x5000)], 0x5000, two));
        tlb.enter_space(1, 1);
        assert!(Tlb::matches(
            &tlb.read[set_of(0x5000)],
            0x5000,
            tlb.tag(0, false)
        ));
        tlb.flush_space(1, 1);
        assert!(!Tlb::matches(&tlb.read[set_of(0x5000)], 0x5000, one));
    }
}
