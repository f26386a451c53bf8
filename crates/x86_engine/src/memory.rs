//! Loads and stores at linear addresses.
//!
//! The fast path is a soft-TLB hit inside one page. Everything else (misses, page crossings, pages that are no
//! plain RAM, alignment checks, watchpoints, non-canonical addresses) takes the slow path.

use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::flags;
use crate::paging::Actor;
use crate::tlb::{SLOW, Tlb, set_of};
use crate::translate::lockstep::UNKNOWN;
use crate::width::Width;
use std::sync::{Mutex, PoisonError};
use x86_arch::{Access, KeyedHpa, RamPage};

/// One page's part of an access: the RAM, or the address to go through the platform with.
enum Place<P> {
    Ram(P),
    Slow(KeyedHpa),
}

impl<P: RamPage + 'static> Cpu<'_, P> {
    // ---- fast paths ----

    /// Loads at a linear address that is not relative to the stack segment.
    #[inline(always)]
    pub fn load<W: Width>(&mut self, linear: u64) -> Result<W, Fault> {
        self.load_in(linear, false)
    }

    /// `stack`: a non-canonical address is #SS(0) instead of #GP(0).
    #[inline(always)]
    pub fn load_in<W: Width>(&mut self, linear: u64, stack: bool) -> Result<W, Fault> {
        let entry = &self.tlb.read[set_of(linear)];
        let offset = (linear & 0xFFF) as usize;
        if Tlb::matches(entry, linear, self.tag)
            && offset + W::BYTES <= 4096
            && let Some(page) = &entry.page
        {
            return Ok(W::load(page, offset));
        }
        Ok(W::cut(self.load_slow(linear, W::BYTES, stack)?))
    }

    #[inline(always)]
    pub fn store_at<W: Width>(&mut self, linear: u64, value: W) -> Result<(), Fault> {
        self.store_in(linear, value, false)
    }

    #[inline(always)]
    pub fn store_in<W: Width>(&mut self, linear: u64, value: W, stack: bool) -> Result<(), Fault> {
        let entry = &self.tlb.write[set_of(linear)];
        let offset = (linear & 0xFFF) as usize;
        if Tlb::matches(entry, linear, self.tag)
            && offset + W::BYTES <= 4096
            && let Some(page) = &entry.page
        {
            value.store(page, offset);
            return Ok(());
        }
        self.store_slow(linear, value.zext(), W::BYTES, stack)
    }

    /// Reads, computes and writes back; `f` gives the new value and a result. Nothing is written when the page
    /// is not writable, and then nothing is read either.
    #[inline(always)]
    pub fn update<W: Width, R>(
        &mut self,
        linear: u64,
        stack: bool,
        f: impl FnOnce(W) -> (W, R),
    ) -> Result<R, Fault> {
        let entry = &self.tlb.write[set_of(linear)];
        let offset = (linear & 0xFFF) as usize;
        if Tlb::matches(entry, linear, self.tag)
            && offset + W::BYTES <= 4096
            && let Some(page) = &entry.page
        {
            let (new, result) = f(W::load(page, offset));
            new.store(page, offset);
            return Ok(result);
        }
        let old = self.load_for_update(linear, W::BYTES, stack)?;
        let (new, result) = f(W::cut(old));
        self.store_slow(linear, new.zext(), W::BYTES, stack)?;
        Ok(result)
    }

    /// The same with LOCK: one atomic step for every processor. `f` may be called more than once.
    pub fn update_locked<W: Width, R>(
        &mut self,
        linear: u64,
        stack: bool,
        f: impl Fn(W) -> (W, R),
    ) -> Result<R, Fault> {
        let offset = (linear & 0xFFF) as usize;
        if offset + W::BYTES > 4096 || linear & 63 > 64 - W::BYTES as u64 {
            self.bus_locked();
        }
        if offset + W::BYTES <= 4096 {
            let old = self.load_for_update(linear, W::BYTES, stack)?;
            if let Place::Ram(page) = self.place(linear, Access::Write, Actor::Current)? {
                let mut old = old;
                loop {
                    let (new, result) = f(W::cut(old));
                    if let Some(rehearsal) = &mut self.rehearsal {
                        let bytes = new.zext().to_le_bytes();
                        rehearsal.note(&page, offset, &bytes[..W::BYTES]);
                    }
                    match page.compare_exchange(offset, W::BYTES as u8, old, new.zext()) {
                        Ok(_) => return Ok(result),
                        Err(now) => old = now,
                    }
                }
            }
        }
        // A split over two pages, and memory that is no RAM: atomic for other such accesses alone.
        static SPLIT: Mutex<()> = Mutex::new(());
        let _one_at_a_time = SPLIT.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.load_for_update(linear, W::BYTES, stack)?;
        let (new, result) = f(W::cut(old));
        self.store_slow(linear, new.zext(), W::BYTES, stack)?;
        Ok(result)
    }

    /// 16 bytes, compared and swapped in one atomic step; the old value either way.
    pub fn compare_exchange_u128(
        &mut self,
        linear: u64,
        expected: u128,
        new: u128,
        stack: bool,
    ) -> Result<Result<u128, u128>, Fault> {
        if linear & 15 != 0 {
            return Err(Fault::GP0);
        }
        self.check_linear(linear, 16, stack)?;
        self.watch(linear, 16, Access::Write);
        match self.place(linear, Access::Write, Actor::Current)? {
            Place::Ram(page) => {
                let offset = (linear & 0xFFF) as usize;
                if let Some(rehearsal) = &mut self.rehearsal {
                    let mut now = [0; 16];
                    page.read(offset, &mut now);
                    if now == expected.to_le_bytes() {
                        rehearsal.note(&page, offset, &new.to_le_bytes());
                    }
                }
                Ok(page.compare_exchange_u128(offset, expected, new))
            }
            Place::Slow(page) => {
                let mut bytes = [0; 16];
                let offset = (linear & 0xFFF) as usize;
                self.read_slow(page, offset, &mut bytes)?;
                let old = u128::from_le_bytes(bytes);
                if old == expected {
                    self.write_slow(page, offset, &new.to_le_bytes())?;
                    Ok(Ok(old))
                } else {
                    Ok(Err(old))
                }
            }
        }
    }

    /// Bus-lock detection (secondary control bit 30).
    pub(crate) fn bus_locked(&mut self) {
        if self.vcpu.controls.secondary & 1 << 30 != 0 && self.rehearsal.is_none() {
            self.bus_lock = true;
            self.attention = true;
        }
    }

    // ---- byte ranges ----

    pub fn load_u128(&mut self, linear: u64, stack: bool) -> Result<u128, Fault> {
        let entry = &self.tlb.read[set_of(linear)];
        let offset = (linear & 0xFFF) as usize;
        if Tlb::matches(entry, linear, self.tag)
            && offset <= 4096 - 16
            && let Some(page) = &entry.page
        {
            return Ok(page.load_u128(offset));
        }
        let mut bytes = [0; 16];
        self.load_bytes(linear, &mut bytes, stack)?;
        Ok(u128::from_le_bytes(bytes))
    }

    pub fn store_u128(&mut self, linear: u64, value: u128, stack: bool) -> Result<(), Fault> {
        let entry = &self.tlb.write[set_of(linear)];
        let offset = (linear & 0xFFF) as usize;
        if Tlb::matches(entry, linear, self.tag)
            && offset <= 4096 - 16
            && let Some(page) = &entry.page
        {
            page.store_u128(offset, value);
            return Ok(());
        }
        self.store_bytes(linear, &value.to_le_bytes(), stack)
    }

    /// Loads any number of bytes below 4 KiB; all or nothing.
    pub fn load_bytes(&mut self, linear: u64, to: &mut [u8], stack: bool) -> Result<(), Fault> {
        self.check_linear(linear, to.len(), stack)?;
        self.watch(linear, to.len(), Access::Read);
        self.read_linear(linear, to, Actor::Current)
    }

    /// Stores any number of bytes below 4 KiB; all or nothing.
    pub fn store_bytes(&mut self, linear: u64, from: &[u8], stack: bool) -> Result<(), Fault> {
        self.check_linear(linear, from.len(), stack)?;
        self.watch(linear, from.len(), Access::Write);
        self.write_linear(linear, from, Actor::Current)
    }

    /// Checks that a whole store would succeed, without storing.
    pub fn probe_write(&mut self, linear: u64, bytes: usize, stack: bool) -> Result<(), Fault> {
        self.check_linear(linear, bytes, stack)?;
        self.place(linear, Access::Write, Actor::Current)?;
        let last = self.wrap(linear.wrapping_add(bytes as u64 - 1));
        if (linear ^ last) & !0xFFF != 0 {
            self.place(last & !0xFFF, Access::Write, Actor::Current)?;
        }
        Ok(())
    }

    /// A read by the processor itself (descriptor tables, TSS, IDT), with supervisor rights.
    pub fn load_system<W: Width>(&mut self, linear: u64) -> Result<W, Fault> {
        self.check_linear(linear, W::BYTES, false)?;
        let mut bytes = [0; 8];
        self.read_linear(linear, &mut bytes[..W::BYTES], Actor::System)?;
        Ok(W::cut(u64::from_le_bytes(bytes)))
    }

    pub fn store_system<W: Width>(&mut self, linear: u64, value: W) -> Result<(), Fault> {
        self.check_linear(linear, W::BYTES, false)?;
        self.write_linear(
            linear,
            &value.zext().to_le_bytes()[..W::BYTES],
            Actor::System,
        )
    }

    // ---- slow paths ----

    #[cold]
    #[inline(never)]
    fn load_slow(&mut self, linear: u64, bytes: usize, stack: bool) -> Result<u64, Fault> {
        self.check_linear(linear, bytes, stack)?;
        self.check_alignment(linear, bytes)?;
        self.watch(linear, bytes, Access::Read);
        let mut buffer = [0; 8];
        self.read_linear(linear, &mut buffer[..bytes], Actor::Current)?;
        Ok(u64::from_le_bytes(buffer))
    }

    #[cold]
    #[inline(never)]
    fn store_slow(
        &mut self,
        linear: u64,
        value: u64,
        bytes: usize,
        stack: bool,
    ) -> Result<(), Fault> {
        self.check_linear(linear, bytes, stack)?;
        self.check_alignment(linear, bytes)?;
        self.watch(linear, bytes, Access::Write);
        self.write_linear(linear, &value.to_le_bytes()[..bytes], Actor::Current)
    }

    /// A load whose page must be writable, as read-modify-write instructions demand.
    #[cold]
    #[inline(never)]
    fn load_for_update(&mut self, linear: u64, bytes: usize, stack: bool) -> Result<u64, Fault> {
        self.check_linear(linear, bytes, stack)?;
        self.check_alignment(linear, bytes)?;
        self.watch(linear, bytes, Access::Write);
        self.probe_write(linear, bytes, stack)?;
        let mut buffer = [0; 8];
        self.read_linear_via(linear, &mut buffer[..bytes], Actor::Current, Access::Write)?;
        Ok(u64::from_le_bytes(buffer))
    }

    /// A linear address outside 64-bit mode is 32 bits wide.
    #[inline(always)]
    pub fn wrap(&self, linear: u64) -> u64 {
        if self.is_64() {
            linear
        } else {
            linear & 0xFFFF_FFFF
        }
    }

    pub(crate) fn check_linear(&self, linear: u64, bytes: usize, stack: bool) -> Result<(), Fault> {
        if self.long_mode()
            && !(self.is_canonical(linear)
                && self.is_canonical(linear.wrapping_add(bytes as u64 - 1)))
        {
            return Err(if stack { Fault::SS0 } else { Fault::GP0 });
        }
        Ok(())
    }

    fn check_alignment(&self, linear: u64, bytes: usize) -> Result<(), Fault> {
        if self.alignment_checked() && linear & (bytes as u64 - 1) != 0 {
            return Err(Fault::AC);
        }
        Ok(())
    }

    /// CR0.AM, RFLAGS.AC and CPL 3.
    pub fn alignment_checked(&self) -> bool {
        self.cpl == 3
            && self.system_flags & flags::AC != 0
            && self.cr0() & crate::cpu::bits::CR0_AM != 0
    }

    /// Notes the data breakpoints that an access meets; #DB follows the instruction.
    pub(crate) fn watch(&mut self, linear: u64, bytes: usize, access: Access) {
        let dr7 = self.vcpu.regs.dr7;
        if dr7 & 0xFF == 0 {
            return;
        }
        for n in 0..4 {
            if dr7 >> (n * 2) & 3 == 0 {
                continue;
            }
            let kind = dr7 >> (16 + n * 4) & 3;
            let wanted = kind == 3 || kind == 1 && access == Access::Write;
            let length = [1, 2, 8, 4][(dr7 >> (18 + n * 4) & 3) as usize];
            let start = self.vcpu.regs.dr[n] & !(length - 1);
            // Overlap of [linear, linear+bytes) and [start, start+length), wrapping.
            let overlaps =
                linear.wrapping_sub(start) < length || start.wrapping_sub(linear) < bytes as u64;
            if wanted && overlaps {
                self.debug_hits |= 1 << n;
                self.attention = true;
            }
        }
    }

    fn place(&mut self, linear: u64, access: Access, actor: Actor) -> Result<Place<P>, Fault> {
        if self.rehearsal.is_some() {
            return self.known_place(linear, access);
        }
        if actor == Actor::Current {
            let entry = match access {
                Access::Write => &self.tlb.write[set_of(linear)],
                _ => &self.tlb.read[set_of(linear)],
            };
            if Tlb::matches(entry, linear, self.tag)
                && let Some(page) = &entry.page
            {
                return Ok(Place::Ram(page.clone()));
            }
        }
        let translated = self.translate(linear, access, actor)?;
        Ok(match translated.ram {
            Some(page) => {
                if actor == Actor::Current {
                    self.tlb
                        .fill(access, linear, self.tag, translated.size, page.clone());
                }
                Place::Ram(page)
            }
            None => Place::Slow(translated.page),
        })
    }

    /// The page as far as the soft TLB knows it.
    #[cold]
    fn known_place(&self, linear: u64, access: Access) -> Result<Place<P>, Fault> {
        let entry = match access {
            Access::Write => &self.tlb.write[set_of(linear)],
            _ => &self.tlb.read[set_of(linear)],
        };
        match &entry.page {
            Some(page) if Tlb::matches(entry, linear, self.tag & !SLOW) => {
                Ok(Place::Ram(page.clone()))
            }
            _ => Err(UNKNOWN),
        }
    }

    fn read_linear(&mut self, linear: u64, to: &mut [u8], actor: Actor) -> Result<(), Fault> {
        self.read_linear_via(linear, to, actor, Access::Read)
    }

    fn read_linear_via(
        &mut self,
        linear: u64,
        to: &mut [u8],
        actor: Actor,
        access: Access,
    ) -> Result<(), Fault> {
        let offset = (linear & 0xFFF) as usize;
        let first = to.len().min(4096 - offset);
        let (head, tail) = to.split_at_mut(first);
        self.read_page(linear, head, actor, access)?;
        if !tail.is_empty() {
            let next = self.wrap((linear & !0xFFF).wrapping_add(4096));
            self.read_page(next, tail, actor, access)?;
        }
        Ok(())
    }

    fn read_page(
        &mut self,
        linear: u64,
        to: &mut [u8],
        actor: Actor,
        access: Access,
    ) -> Result<(), Fault> {
        let offset = (linear & 0xFFF) as usize;
        match self.place(linear, access, actor)? {
            Place::Ram(page) => {
                read_whole(&page, offset, to);
                Ok(())
            }
            Place::Slow(page) => self.read_slow(page, offset, to),
        }
    }

    fn write_linear(&mut self, linear: u64, from: &[u8], actor: Actor) -> Result<(), Fault> {
        let offset = (linear & 0xFFF) as usize;
        let first = from.len().min(4096 - offset);
        let (head, tail) = from.split_at(first);
        let place = self.place(linear, Access::Write, actor)?;
        let second = if tail.is_empty() {
            None
        } else {
            // Both pages must accept the store before any byte changes.
            let next = self.wrap((linear & !0xFFF).wrapping_add(4096));
            Some(self.place(next, Access::Write, actor)?)
        };
        self.write_place(place, offset, head)?;
        if let Some(second) = second {
            self.write_place(second, 0, tail)?;
        }
        Ok(())
    }

    fn write_place(&mut self, place: Place<P>, offset: usize, from: &[u8]) -> Result<(), Fault> {
        match place {
            Place::Ram(page) => {
                if let Some(rehearsal) = &mut self.rehearsal {
                    rehearsal.note(&page, offset, from);
                }
                write_whole(&page, offset, from);
                Ok(())
            }
            Place::Slow(page) => self.write_slow(page, offset, from),
        }
    }

    pub(crate) fn read_slow(
        &mut self,
        page: KeyedHpa,
        offset: usize,
        to: &mut [u8],
    ) -> Result<(), Fault> {
        self.platform
            .read(at(page, offset), to)
            .map_err(|_| Fault::MC)
    }

    pub(crate) fn write_slow(
        &mut self,
        page: KeyedHpa,
        offset: usize,
        from: &[u8],
    ) -> Result<(), Fault> {
        self.platform
            .write(at(page, offset), from)
            .map_err(|_| Fault::MC)
    }
}

fn at(page: KeyedHpa, offset: usize) -> KeyedHpa {
    KeyedHpa::new(
        x86_arch::Hpa::new(page.hpa.raw() | offset as u64),
        page.hkid,
    )
}

/// One access of 1, 2, 4, 8 or 16 bytes is one load, so that it is atomic where the architecture says so.
fn read_whole<P: RamPage>(page: &P, offset: usize, to: &mut [u8]) {
    match to.len() {
        1 => to.copy_from_slice(&page.load_u8(offset).to_le_bytes()),
        2 => to.copy_from_slice(&page.load_u16(offset).to_le_bytes()),
        4 => to.copy_from_slice(&page.load_u32(offset).to_le_bytes()),
        8 => to.copy_from_slice(&page.load_u64(offset).to_le_bytes()),
        16 => to.copy_from_slice(&page.load_u128(offset).to_le_bytes()),
        _ => page.read(offset, to),
    }
}

fn write_whole<P: RamPage>(page: &P, offset: usize, from: &[u8]) {
    match *from {
        [a] => page.store_u8(offset, a),
        [a, b] => page.store_u16(offset, u16::from_le_bytes([a, b])),
        [a, b, c, d] => page.store_u32(offset, u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => {
            page.store_u64(offset, u64::from_le_bytes([a, b, c, d, e, f, g, h]));
        }
        _ => match from.try_into() {
            Ok(bytes) => page.store_u128(offset, u128::from_le_bytes(bytes)),
            Err(_) => page.write(offset, from),
        },
    }
}
