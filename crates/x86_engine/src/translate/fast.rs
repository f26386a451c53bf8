//! The tables that translated code reads: a mirror of the soft TLB for each tag, and the cache of jump targets.
//!
//! An entry of the mirror exists only while the soft TLB holds the same translation in the same set, so that
//! translated code hits exactly where the interpreter does and the page behind an address is kept alive.

use crate::tlb::{SETS, set_of};
use x86_arch::Access;

/// Tags whose mirrors are kept; another one takes the place of the oldest.
const MIRRORS: usize = 32;
const NO_MIRROR: u8 = u8::MAX;
/// log2 of the page groups of the jump cache, and of the entries of each.
const GROUPS: u32 = 8;
const SLOTS: u32 = 6;

/// A linear page and where it lies in the host's memory.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FastEntry {
    /// The page's linear address. When empty, the address of a page of another set: nothing that is looked up here
    /// lies in it.
    page: u64,
    host: u64,
}

impl FastEntry {
    const fn empty(set: usize) -> FastEntry {
        FastEntry {
            page: (set as u64 ^ 1) << 12,
            host: 0,
        }
    }
}

type Array = [FastEntry; SETS];

/// The mirror for one tag: reads, then writes.
struct Mirror {
    tag: u64,
    read: Box<Array>,
    write: Box<Array>,
}

fn empty_array() -> Box<Array> {
    let all: Vec<FastEntry> = (0..SETS).map(FastEntry::empty).collect();
    match all.try_into() {
        Ok(array) => array,
        Err(_) => unreachable!("the vector has that length"),
    }
}

/// Where translated code of an address begins, as found in one context.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Jump {
    pub rip: u64,
    pub entry: u64,
    pub context: u64,
    unused: u64,
}

const NO_JUMP: Jump = Jump {
    rip: 0,
    entry: 0,
    context: 0,
    unused: 0,
};

pub struct Fast {
    mirrors: Vec<Mirror>,
    /// Mirror number of each tag.
    numbers: Box<[u8; 1024]>,
    next_victim: usize,
    /// The number of each (space, user) pair. A new number makes every jump-cache entry of the pair void.
    contexts: Box<[u64; 512]>,
    next_context: u64,
    jumps: Box<[Jump; 1 << (GROUPS + SLOTS)]>,
    /// The epoch of watched pages ([`super::watch`]) that the mirrors for writes respect.
    pub epoch: u64,
}

/// The place of an address in the jump cache. [`crate::translate`] emits the same sum as code.
pub const fn jump_index(rip: u64) -> usize {
    let slot = (rip ^ rip >> SLOTS) & ((1 << SLOTS) - 1);
    let group = rip >> 12 & ((1 << GROUPS) - 1);
    (group << SLOTS | slot) as usize
}

impl Fast {
    pub fn new() -> Fast {
        let jumps: Vec<Jump> = vec![NO_JUMP; 1 << (GROUPS + SLOTS)];
        let jumps = match jumps.into_boxed_slice().try_into() {
            Ok(array) => array,
            Err(_) => unreachable!("the vector has that length"),
        };
        let mut contexts = Box::new([0; 512]);
        for (number, context) in contexts.iter_mut().enumerate() {
            *context = number as u64 + 1;
        }
        Fast {
            mirrors: Vec::new(),
            numbers: Box::new([NO_MIRROR; 1024]),
            next_victim: 0,
            contexts,
            next_context: 513,
            jumps,
            epoch: 0,
        }
    }

    /// Bytes that the tables take.
    pub fn bytes(&self) -> usize {
        let own =
            size_of_val(&*self.numbers) + size_of_val(&*self.contexts) + size_of_val(&*self.jumps);
        own + self.mirrors.len() * 2 * size_of::<Array>()
    }

    /// The arrays for a tag: addresses of the one for reads and of the one for writes.
    pub fn arrays(&mut self, tag: u64) -> (u64, u64) {
        let number = match self.numbers[(tag & 1023) as usize] {
            NO_MIRROR => self.make(tag & 1023),
            number => number as usize,
        };
        let mirror = &self.mirrors[number];
        (mirror.read.as_ptr() as u64, mirror.write.as_ptr() as u64)
    }

    #[cold]
    fn make(&mut self, tag: u64) -> usize {
        let fresh = Mirror {
            tag,
            read: empty_array(),
            write: empty_array(),
        };
        let number = if self.mirrors.len() < MIRRORS {
            self.mirrors.push(fresh);
            self.mirrors.len() - 1
        } else {
            let number = self.next_victim;
            self.next_victim = (number + 1) % MIRRORS;
            let old = std::mem::replace(&mut self.mirrors[number], fresh);
            self.numbers[old.tag as usize] = NO_MIRROR;
            number
        };
        self.numbers[tag as usize] = number as u8;
        number
    }

    /// Adds a translation that the soft TLB holds. False when it is there already.
    pub fn fill(&mut self, access: Access, linear: u64, tag: u64, host: u64) -> bool {
        let set = set_of(linear);
        let number = match self.numbers[(tag & 1023) as usize] {
            NO_MIRROR => self.make(tag & 1023),
            number => number as usize,
        };
        let mirror = &mut self.mirrors[number];
        let array = match access {
            Access::Write => &mut mirror.write,
            _ => &mut mirror.read,
        };
        let page = linear & !0xFFF;
        if array[set].page == page {
            return false;
        }
        array[set] = FastEntry { page, host };
        true
    }

    /// The soft TLB gave up its entry with this tag.
    #[inline]
    pub fn drop_entry(&mut self, access: Access, tag: u64, set: usize) {
        let number = self.numbers[(tag & 1023) as usize];
        if let Some(mirror) = self.mirrors.get_mut(number as usize) {
            let array = match access {
                Access::Write => &mut mirror.write,
                _ => &mut mirror.read,
            };
            array[set] = FastEntry::empty(set);
        }
    }

    /// Writes to the page at this host address have to be seen from now on.
    pub fn watch(&mut self, host: u64) {
        for mirror in &mut self.mirrors {
            for (set, entry) in mirror.write.iter_mut().enumerate() {
                if entry.host == host {
                    *entry = FastEntry::empty(set);
                }
            }
        }
    }

    /// No page may be written directly until it is filled again.
    pub fn drop_writes(&mut self) {
        for mirror in &mut self.mirrors {
            for (set, entry) in mirror.write.iter_mut().enumerate() {
                *entry = FastEntry::empty(set);
            }
        }
    }

    /// What distinguishes jump targets found in this address space at this privilege.
    pub fn context(&self, tag: u64) -> u64 {
        self.contexts[pair(tag)]
    }

    /// Fetches of this address space are to be looked up again.
    pub fn renew_space(&mut self, slot: usize) {
        for context in &mut self.contexts[slot * 2 % 512..slot * 2 % 512 + 2] {
            *context = self.next_context;
            self.next_context += 1;
        }
    }

    pub fn renew_all(&mut self) {
        for slot in 0..256 {
            self.renew_space(slot);
        }
    }

    /// Fetches from this page are to be looked up again, in every address space.
    #[inline]
    pub fn drop_page(&mut self, linear: u64) {
        let first = ((linear >> 12) as usize & ((1 << GROUPS) - 1)) << SLOTS;
        self.jumps[first..first + (1 << SLOTS)].fill(NO_JUMP);
    }

    pub fn jumps(&self) -> u64 {
        self.jumps.as_ptr() as u64
    }

    /// The entry for an address in a context, if the cache has it.
    pub fn jump(&self, rip: u64, context: u64) -> Option<u64> {
        let jump = &self.jumps[jump_index(rip)];
        (jump.rip == rip && jump.context == context).then_some(jump.entry)
    }

    pub fn add_jump(&mut self, rip: u64, context: u64, entry: u64) {
        self.jumps[jump_index(rip)] = Jump {
            rip,
            entry,
            context,
            unused: 0,
        };
    }
}

/// Address-space slot and whether the privilege is user's, of a tag.
fn pair(tag: u64) -> usize {
    ((tag >> 2 & 0xFF) << 1 | tag & 1) as usize
}
