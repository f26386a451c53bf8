//! The cache of decoded code, by physical page: blocks of ops, dropped when the page's bytes change.

use crate::cpu::Mode;
use crate::lower::lower;
use crate::op::{BRANCH, Op, SOLO};
use crate::translate::Translations;
use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction};
use std::collections::HashMap;
use x86_arch::{KeyedHpa, RamPage};

/// Ops of a block at most: the budget's granularity is one instruction all the same.
const BLOCK: usize = 64;
/// Bytes read at once, besides those of one instruction, when a block is decoded.
const PIECE: usize = 113;
/// Pages kept; when full, everything is decoded anew.
const PAGES: usize = 16384;

#[derive(Clone, Copy)]
pub struct Block {
    pub first: u32,
    pub count: u32,
    /// Its number in the page.
    pub(crate) number: u16,
}

pub struct CodePage<P: RamPage + 'static> {
    pub ram: P,
    pub version: u32,
    mode: Mode,
    /// Block number + 1 of each page offset where a block starts.
    starts: Box<[u16; 4096]>,
    blocks: Vec<Block>,
    /// Executions of each block, as long as they matter.
    runs: Vec<u16>,
    pub ops: Vec<Op<P>>,
    pub(crate) translations: Translations,
}

/// Decodes one instruction whose bytes begin at page offset `offset`.
pub fn decode(bytes: &[u8], offset: usize, mode: Mode) -> (Instruction, DecoderError) {
    let mut decoder = Decoder::with_ip(mode as u32, bytes, offset as u64, DecoderOptions::NONE);
    let insn = decoder.decode();
    (insn, decoder.last_error())
}

impl<P: RamPage + 'static> CodePage<P> {
    fn new(ram: P, mode: Mode) -> Self {
        // It is watched; read the version, then the bytes: no change can be missed.
        let version = ram.code_version();
        CodePage {
            ram,
            version,
            mode,
            starts: Box::new([0; 4096]),
            blocks: Vec::new(),
            runs: Vec::new(),
            ops: Vec::new(),
            translations: Translations::default(),
        }
    }

    fn bytes(&self) -> usize {
        size_of::<Self>()
            + size_of_val(&*self.starts)
            + self.blocks.capacity() * size_of::<Block>()
            + self.runs.capacity() * size_of::<u16>()
            + self.ops.capacity() * size_of::<Op<P>>()
            + self.translations.bytes()
    }

    /// Counts an execution of a block.
    pub(crate) fn count_run(&mut self, number: u16) -> u16 {
        let runs = &mut self.runs[usize::from(number)];
        *runs = runs.saturating_add(1);
        *runs
    }

    /// Block number + 1 by page offset, and the translations.
    pub(crate) fn parts(&mut self) -> (&[u16; 4096], &mut Translations) {
        (&self.starts, &mut self.translations)
    }

    /// The block at a page offset; `None` when the first instruction does not end in this page.
    #[inline(always)]
    pub fn block(&mut self, offset: usize) -> Option<Block> {
        if self.ram.code_version() != self.version {
            self.forget();
        }
        match self.starts[offset & 0xFFF] {
            0 => self.decode_block(offset),
            number => Some(self.blocks[number as usize - 1]),
        }
    }

    #[cold]
    #[inline(never)]
    fn forget(&mut self) {
        self.version = self.ram.code_version();
        self.starts.fill(0);
        self.blocks.clear();
        self.runs.clear();
        self.ops.clear();
        self.translations.clear();
    }

    #[cold]
    #[inline(never)]
    fn decode_block(&mut self, offset: usize) -> Option<Block> {
        // Most blocks are short: the page is read piece by piece, each instruction whole.
        let mut bytes = [0; BLOCK * 15];
        let mut end = offset;
        let first = self.ops.len();
        let mut at = offset;
        while at < 4096 && self.ops.len() - first < BLOCK {
            if end < at + 15 && end < 4096 {
                let from = end;
                end = (at + 15 + PIECE).min(offset + bytes.len()).min(4096);
                self.ram.read(from, &mut bytes[from - offset..end - offset]);
            }
            let (insn, error) = decode(&bytes[at - offset..end - offset], at, self.mode);
            if error != DecoderError::None {
                // Cut off by the end of the page, too long or invalid: the careful path finds out.
                break;
            }
            let op = lower(&insn, self.mode);
            if op.flags & SOLO != 0 && self.ops.len() > first {
                break;
            }
            let last = op.flags & (SOLO | BRANCH) != 0;
            at = op.next as usize;
            self.ops.push(op);
            if last {
                break;
            }
        }
        let count = self.ops.len() - first;
        if count == 0 {
            return None;
        }
        let block = Block {
            first: first as u32,
            count: count as u32,
            number: self.blocks.len() as u16,
        };
        self.blocks.push(block);
        self.runs.push(0);
        self.starts[offset] = self.blocks.len() as u16;
        Some(block)
    }
}

pub struct CodeCache<P: RamPage + 'static> {
    pages: Vec<CodePage<P>>,
    index: HashMap<(KeyedHpa, Mode), usize>,
    /// Changes when page numbers lose their meaning.
    pub epoch: u64,
}

impl<P: RamPage + 'static> Default for CodeCache<P> {
    fn default() -> Self {
        CodeCache {
            pages: Vec::new(),
            index: HashMap::new(),
            epoch: 0,
        }
    }
}

impl<P: RamPage + 'static> CodeCache<P> {
    /// The number of a code page that is known.
    pub fn find(&self, page: KeyedHpa, mode: Mode) -> Option<usize> {
        self.index.get(&(page, mode)).copied()
    }

    /// Adds a page that is watched.
    pub fn add(&mut self, page: KeyedHpa, mode: Mode, ram: P) -> usize {
        if self.pages.len() >= PAGES {
            self.clear();
        }
        self.pages.push(CodePage::new(ram, mode));
        let number = self.pages.len() - 1;
        self.index.insert((page, mode), number);
        number
    }

    #[inline(always)]
    pub fn page(&mut self, number: usize) -> &mut CodePage<P> {
        &mut self.pages[number]
    }

    /// Bytes that the decoded code takes, and what is known of its translations.
    pub fn bytes(&self) -> usize {
        self.pages.iter().map(CodePage::bytes).sum()
    }

    pub fn clear(&mut self) {
        self.pages.clear();
        self.index.clear();
        self.epoch += 1;
    }
}
