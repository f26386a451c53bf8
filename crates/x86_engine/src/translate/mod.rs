//! The translator: hot guest code as host code. docs/translator.md says how it works and why it is sound.
//!
//! [`block`] makes the code of one block, [`select`] that of its instructions; [`fast`] is what such code reads,
//! [`entry`] how it is run, [`thunks`] what is fixed, [`buffer`] where all of it lies.

/// Whether the host's processor has a feature of x86-64 processors.
macro_rules! host_has {
    ($name:tt) => {{
        #[cfg(target_arch = "x86_64")]
        let has = std::is_x86_feature_detected!($name);
        #[cfg(not(target_arch = "x86_64"))]
        let has = false;
        has
    }};
}

mod asm;
mod block;
mod buffer;
pub(crate) mod entry;
pub(crate) mod fast;
mod floating;
mod host;
pub(crate) mod lockstep;
mod select;
mod site;
mod thunks;
mod vectors;
pub(crate) mod watch;

use crate::code::{Block, CodePage};
use crate::cpu::{Cpu, Mode};
use crate::flags::{AF, CF, OF, PF, SF, ZF};
use crate::statistics::Statistics;
use crate::tlb::{SLOW, Tlb, set_of};
use asm::Asm;
use block::{Draft, Tools};
use buffer::Buffer;
use fast::Fast;
use host::Host;
use site::{Home, Site};
use std::sync::Arc;
use thunks::{Exit, Thunks};
use vectors::Copying;
use watch::Watcher;
use x86_arch::vmx::Registers;
use x86_arch::{Access, RamPage};

/// The host register of each guest register; the others stay in the frame. RAX and R15 are translation's own, RBP
/// is the frame, RSP the host's stack.
const HOST: [Option<u8>; 16] = [
    Some(asm::RBX),
    Some(asm::RCX),
    Some(asm::RDX),
    Some(asm::R10),
    Some(asm::R11),
    Some(asm::R9),
    Some(asm::RSI),
    Some(asm::RDI),
    Some(asm::R8),
    None,
    None,
    None,
    Some(asm::R12),
    Some(asm::R13),
    Some(asm::R14),
    None,
];

/// Bytes of translated code; when they are used up everything is translated anew.
const BUFFER: usize = 64 << 20;
/// Where the code behind the fixed part begins.
const START: usize = 4096;
/// The longest code of a block.
const LONGEST: usize = 64 << 10;
/// Executions after which a block is translated.
const HOT: u16 = 24;

/// How a run of translated code ended for the run loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Look up what comes.
    Look,
    /// Interpret one instruction.
    One,
    /// Interpret as many instructions as the budget allows.
    Rest,
    /// An instruction did not complete, for the reason in the frame.
    Fault,
}

pub(crate) struct Translator<P: RamPage + 'static> {
    buffer: Buffer,
    used: usize,
    /// What the code of the buffer points at.
    sites: Vec<Arc<[Site<P>]>>,
    thunks: Thunks,
    tools: Tools,
    hot: u16,
    /// Blocks lead to no other block (lockstep).
    alone: bool,
    watcher: Watcher,
    blocks: u64,
    host: Host,
    /// Counts how often everything was dropped; code pages compare.
    pub(crate) epoch: u32,
    /// Instructions that translated code completed, without those that it called the interpreter for.
    pub(crate) completed: u64,
}

/// What keeps this host from having a translator: it must have the instructions that translation itself uses or copies
/// without asking.
fn missing() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some("the host's processor is no x86-64".into());
    }
    macro_rules! first_missing {
        ($($name:tt)*) => {
            $(if !host_has!($name) { return Some(format!("the host's processor has no {}", $name)); })*
        };
    }
    first_missing!("bmi1" "bmi2" "lzcnt" "popcnt" "movbe" "cmpxchg16b" "ssse3" "sse4.1" "sse4.2");
    None
}

impl<P: RamPage + 'static> Translator<P> {
    /// The error says why this host cannot have one.
    pub(crate) fn new(alone: bool) -> Result<Translator<P>, String> {
        if let Some(why) = missing() {
            return Err(why);
        }
        let mut buffer = Buffer::new(BUFFER)?;
        let mut asm = Asm::new(buffer.address(0), Vec::new());
        let thunks = thunks::emit(&mut asm);
        assert!(asm.code.len() <= START);
        buffer.write(0, &asm.code);
        Ok(Translator {
            used: START,
            buffer,
            thunks,
            sites: Vec::new(),
            tools: Tools::new(),
            hot: HOT,
            alone,
            watcher: Watcher::new(),
            blocks: 0,
            host: Host::detected(),
            epoch: 1,
            completed: 0,
        })
    }

    /// Executions after which a block is translated: 0 translates everything at once.
    pub(crate) fn set_hot(&mut self, executions: u16) {
        self.hot = executions;
    }

    /// What it came to, with `tables` bytes beside it.
    pub(crate) fn statistics(&self, tables: usize) -> Statistics {
        let sites = self.sites.iter().flat_map(|sites| sites.iter());
        let sites: usize = sites.map(Site::bytes).sum();
        let drops = u64::from(self.epoch - 1);
        // What was dropped had filled the buffer.
        let code = if drops > 0 {
            self.buffer.size()
        } else {
            self.used
        };
        Statistics {
            blocks: self.blocks,
            code_bytes: code as u64,
            table_bytes: (tables + sites) as u64,
            drops,
        }
    }

    /// As if the host's processor had not this feature; false when copying never depends on it.
    pub(crate) fn do_without(&mut self, feature: &str) -> bool {
        self.host.drop_feature(feature)
    }

    /// The entry of a block's code, translated now when the block is hot.
    #[inline]
    pub(crate) fn entry(
        &mut self,
        fast: &mut Option<Box<Fast>>,
        page: &mut CodePage<P>,
        block: Block,
        linear: u64,
    ) -> Option<Entry> {
        let alias = page.translations.alias(linear & !0xFFF, self.epoch);
        match alias.entry(block.number) {
            Some(Found::Code { entry, .. }) => return Some(entry),
            Some(Found::Interpret) => return None,
            None => {}
        }
        let runs = page.count_run(block.number);
        if runs <= self.hot {
            return None;
        }
        self.translate(fast, page, block, linear)
    }

    #[cold]
    #[inline(never)]
    fn translate(
        &mut self,
        fast: &mut Option<Box<Fast>>,
        page: &mut CodePage<P>,
        block: Block,
        linear: u64,
    ) -> Option<Entry> {
        let host = page.ram.host()?;
        if self.used + LONGEST > self.buffer.size() {
            // Everything goes; pages notice by the epoch.
            self.used = START;
            self.sites.clear();
            self.epoch += 1;
            if let Some(fast) = fast {
                fast.renew_all();
            }
        }
        let offset = (linear & 0xFFF) as usize;
        let mut bytes = [0; block::BYTES];
        let bytes = &mut bytes[..block::BYTES.min(4096 - offset)];
        page.ram.read(offset, bytes);
        let base = self.buffer.address(self.used);
        let epoch = self.epoch;
        let version = page.version;
        let (starts, translations) = page.parts();
        let alias = translations.alias(linear & !0xFFF, epoch);
        let known = |offset: u16| match alias.entry(starts[usize::from(offset)].checked_sub(1)?)? {
            Found::Code { inner, .. } => Some(inner),
            Found::Interpret => None,
        };
        let source = block::Source {
            bytes,
            page: linear & !0xFFF,
            offset,
            version,
            version_address: host.code_version.as_ptr() as u64,
        };
        let known: &dyn Fn(u16) -> Option<u64> = if self.alone { &|_| None } else { &known };
        let made = block::translate(
            &source,
            base,
            self.thunks,
            &mut self.tools,
            known,
            self.alone,
            Copying::new::<P>(self.host),
        );
        let alias = page.translations.alias(linear & !0xFFF, epoch);
        let Some(mut made) = made else {
            alias.put(block.number, Found::Interpret);
            return None;
        };
        assert!(made.code.len() <= LONGEST);
        if !made.sites.is_empty() {
            let home = Arc::new(Home {
                ram: page.ram.clone(),
                version,
            });
            let site = |draft: &Draft| Site::new(home.clone(), draft.rip, draft.rest, draft.next);
            let sites: Arc<[Site<P>]> = made.sites.iter().map(site).collect();
            for (site, draft) in sites.iter().zip(&made.sites) {
                let address = std::ptr::from_ref(site) as u64;
                made.code[draft.field..draft.field + 8].copy_from_slice(&address.to_le_bytes());
            }
            self.sites.push(sites);
        }
        self.blocks += 1;
        self.buffer.write(self.used, &made.code);
        self.used = (self.used + made.code.len()).next_multiple_of(16);
        self.tools.reuse(made.code);
        let inner = base + made.inner as u64;
        let entry = Entry {
            address: base,
            count: made.count as u8,
        };
        alias.put(block.number, Found::Code { entry, inner });
        let alias = page.translations.alias(linear & !0xFFF, epoch);
        if self.alone {
            return Some(entry);
        }
        alias.links.extend(made.links);
        // Jumps that wait for this block lead to it from now on.
        let offset = (linear & 0xFFF) as u16;
        let buffer = &mut self.buffer;
        alias.links.retain(|(to, site)| {
            if *to != offset {
                return true;
            }
            let distance = inner.wrapping_sub(site + 4) as u32;
            let at = (site - buffer.address(0)) as usize;
            buffer.write(at, &distance.to_le_bytes());
            false
        });
        Some(entry)
    }

    /// Runs translated code for at most `left` instructions.
    pub(crate) fn run(&mut self, cpu: &mut Cpu<'_, P>, entry: u64, left: u64) -> Next {
        let (tag, rip, before) = (cpu.tag, cpu.rip, cpu.retired);
        let Some(fast) = &mut cpu.tlb.fast else {
            return Next::Rest;
        };
        if self.watcher.enter(&mut fast.epoch) {
            fast.drop_writes();
        }
        let frame = &mut cpu.frame;
        (frame.read, frame.write) = fast.arrays(tag);
        frame.jumps = fast.jumps();
        frame.context = if self.alone {
            // No entry of the jump cache has it.
            u64::MAX
        } else {
            let context = fast.context(tag);
            fast.add_jump(rip, context, entry);
            context
        };
        frame.flags = pack(cpu.flags.bits());
        frame.budget = left as i64;
        frame.limit = cpu.retired + left;
        frame.stepped = 0;
        frame.usable = u64::from(usable(&cpu.vcpu.regs));
        frame.leave = self.thunks.leave;
        entry::run(&self.buffer, cpu, entry);
        self.watcher.leave();
        let frame = &cpu.frame;
        cpu.flags = crate::flags::Flags::from_rflags(unpack(frame.flags));
        cpu.rip = frame.rip;
        cpu.retired = frame.limit.wrapping_sub(frame.budget as u64);
        self.completed += cpu.retired - before - frame.stepped;
        if frame.exit == Exit::Continue as u64 {
            Next::Look
        } else if frame.exit == Exit::Interpret as u64 {
            Next::One
        } else if frame.exit == Exit::Fault as u64 {
            Next::Fault
        } else {
            Next::Rest
        }
    }
}

/// The vector instructions that neither #UD nor #NM keeps from being used.
fn usable(regs: &Registers) -> u8 {
    use crate::cpu::bits::{CR0_EM, CR0_TS, CR4_OSFXSR, CR4_OSXSAVE};
    let mut usable = 0;
    if regs.cr0 & CR0_TS == 0 {
        if regs.cr0 & CR0_EM == 0 && regs.cr4 & CR4_OSFXSR != 0 {
            usable |= vectors::SSE;
        }
        if regs.cr4 & CR4_OSXSAVE != 0 && regs.xcr0 & 6 == 6 {
            usable |= vectors::AVX;
        }
    }
    usable
}

/// The frame's form of the arithmetic flags: LAHF's byte above OF's.
fn pack(rflags: u64) -> u64 {
    (rflags & (SF | ZF | AF | PF | CF) | 2) << 8 | u64::from(rflags & OF != 0)
}

fn unpack(flags: u64) -> u64 {
    flags >> 8 & (SF | ZF | AF | PF | CF) | if flags & 1 != 0 { OF } else { 0 }
}

/// A block's code: its address, and its instructions.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) address: u64,
    pub(crate) count: u8,
}

/// What is known of a block.
#[derive(Clone, Copy)]
pub(crate) enum Found {
    /// Where to enter from anywhere, and the address to enter from the same page.
    Code { entry: Entry, inner: u64 },
    /// Its first instruction is the interpreter's.
    Interpret,
}

/// The translations of one code page at one linear address.
pub(crate) struct Alias {
    linear: u64,
    /// By block number.
    entries: Vec<Option<Found>>,
    /// Jumps to blocks that are not there yet: page offset, and address of the displacement.
    links: Vec<(u16, u64)>,
}

impl Alias {
    #[inline]
    fn entry(&self, number: u16) -> Option<Found> {
        self.entries.get(usize::from(number)).copied().flatten()
    }
    fn put(&mut self, number: u16, found: Found) {
        let number = usize::from(number);
        if self.entries.len() <= number {
            self.entries.resize(number + 1, None);
        }
        self.entries[number] = Some(found);
    }
}

/// Linear addresses at which a page's code is kept translated.
const ALIASES: usize = 4;

/// The translations of one code page.
#[derive(Default)]
pub(crate) struct Translations {
    aliases: Vec<Alias>,
    epoch: u32,
}

impl Translations {
    pub(crate) fn clear(&mut self) {
        self.aliases.clear();
    }

    /// Bytes beside the translated code.
    pub(crate) fn bytes(&self) -> usize {
        let of_alias = |alias: &Alias| {
            size_of::<Alias>()
                + alias.entries.capacity() * size_of::<Option<Found>>()
                + alias.links.capacity() * size_of::<(u16, u64)>()
        };
        self.aliases.iter().map(of_alias).sum()
    }

    #[inline]
    fn alias(&mut self, linear: u64, epoch: u32) -> &mut Alias {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.aliases.clear();
        }
        let number = match self.aliases.iter().position(|a| a.linear == linear) {
            Some(number) => number,
            None => {
                if self.aliases.len() == ALIASES {
                    self.aliases.remove(0);
                }
                self.aliases.push(Alias {
                    linear,
                    entries: Vec::new(),
                    links: Vec::new(),
                });
                self.aliases.len() - 1
            }
        };
        &mut self.aliases[number]
    }
}

impl<P: RamPage + 'static> Cpu<'_, P> {
    /// Whether translated code may run now. Debug registers and alignment checks need the slow path.
    #[inline]
    pub(crate) fn can_translate(&self) -> bool {
        self.mode == Mode::Bits64 && self.tag & SLOW == 0
    }

    /// Makes an access of translated code hit that the soft TLB knows. False when the interpreter has to do it:
    /// the soft TLB misses too, the access crosses pages, or writes have to be seen.
    pub(crate) fn fill_fast(&mut self, access: Access, linear: u64) -> bool {
        let set = set_of(linear);
        let entry = match access {
            Access::Write => &self.tlb.write[set],
            _ => &self.tlb.read[set],
        };
        if !Tlb::matches(entry, linear, self.tag) {
            return false;
        }
        let Some(page) = &entry.page else {
            return false;
        };
        let Some(host) = page.host() else {
            return false;
        };
        if access == Access::Write && page.is_watched() {
            return false;
        }
        let host = host.bytes.as_ptr() as u64;
        let tag = self.tag;
        match &mut self.tlb.fast {
            Some(fast) => fast.fill(access, linear, tag, host),
            None => false,
        }
    }
}
