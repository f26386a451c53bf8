//! A guest for tests and benches: flat memory, no second level, a counter for a clock.

use crate::platform::{MachineCheck, PendingEvents, Platform};
use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use x86_arch::vmx::{Seg, Segment, Vcpu};
use x86_arch::{
    Access, EptFault, EptPermissions, Gpa, Hkid, HostPage, Hpa, KeyedHpa, RamPage,
    SecondLevelMapping,
};

#[repr(align(64))]
struct Words {
    words: [AtomicU64; 512],
    watched: AtomicBool,
    version: AtomicU32,
}

/// A page for one processor at a time: accesses that are no aligned 8 bytes take several steps.
#[derive(Clone)]
pub struct FlatPage(Arc<Words>);

impl Default for FlatPage {
    fn default() -> Self {
        FlatPage(Arc::new(Words {
            words: [const { AtomicU64::new(0) }; 512],
            watched: AtomicBool::new(false),
            version: AtomicU32::new(0),
        }))
    }
}

impl FlatPage {
    #[inline(always)]
    fn word(&self, index: usize) -> u64 {
        self.0.words[index & 511].load(Ordering::Relaxed)
    }
    #[inline(always)]
    fn get(&self, offset: usize, bytes: usize) -> u64 {
        assert!(offset + bytes <= 4096, "inside the page");
        let shift = (offset & 7) * 8;
        let low = self.word(offset / 8) >> shift;
        if shift + bytes * 8 <= 64 {
            low
        } else {
            low | self.word(offset / 8 + 1) << (64 - shift)
        }
    }
    #[inline(always)]
    fn put(&self, offset: usize, bytes: usize, value: u64) {
        assert!(offset + bytes <= 4096, "inside the page");
        let shift = (offset & 7) * 8;
        let mask = u64::MAX >> (64 - bytes * 8);
        self.merge(offset / 8, mask << shift, value << shift);
        if shift + bytes * 8 > 64 {
            self.merge(offset / 8 + 1, mask >> (64 - shift), value >> (64 - shift));
        }
        if self.0.watched.load(Ordering::Relaxed) {
            self.0.version.fetch_add(1, Ordering::Relaxed);
        }
    }
    #[inline(always)]
    fn merge(&self, index: usize, mask: u64, value: u64) {
        let word = &self.0.words[index & 511];
        let old = word.load(Ordering::Relaxed);
        word.store(old & !mask | value & mask, Ordering::Relaxed);
    }
}

impl RamPage for FlatPage {
    #[inline]
    fn load_u8(&self, offset: usize) -> u8 {
        self.get(offset, 1) as u8
    }
    #[inline]
    fn load_u16(&self, offset: usize) -> u16 {
        self.get(offset, 2) as u16
    }
    #[inline]
    fn load_u32(&self, offset: usize) -> u32 {
        self.get(offset, 4) as u32
    }
    #[inline]
    fn load_u64(&self, offset: usize) -> u64 {
        self.get(offset, 8)
    }
    #[inline]
    fn store_u8(&self, offset: usize, value: u8) {
        self.put(offset, 1, u64::from(value));
    }
    #[inline]
    fn store_u16(&self, offset: usize, value: u16) {
        self.put(offset, 2, u64::from(value));
    }
    #[inline]
    fn store_u32(&self, offset: usize, value: u32) {
        self.put(offset, 4, u64::from(value));
    }
    #[inline]
    fn store_u64(&self, offset: usize, value: u64) {
        self.put(offset, 8, value);
    }
    fn read(&self, mut offset: usize, to: &mut [u8]) {
        for chunk in to.chunks_mut(8) {
            let bytes = self.get(offset, chunk.len()).to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
            offset += chunk.len();
        }
    }
    fn write(&self, mut offset: usize, from: &[u8]) {
        for chunk in from.chunks(8) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            self.put(offset, chunk.len(), u64::from_le_bytes(bytes));
            offset += chunk.len();
        }
    }
    fn compare_exchange(
        &self,
        offset: usize,
        size: u8,
        expected: u64,
        new: u64,
    ) -> Result<u64, u64> {
        let bytes = usize::from(size);
        let old = self.get(offset, bytes) & u64::MAX >> (64 - bytes * 8);
        if old != expected {
            return Err(old);
        }
        self.put(offset, bytes, new);
        Ok(old)
    }
    fn compare_exchange_u128(
        &self,
        offset: usize,
        expected: u128,
        new: u128,
    ) -> Result<u128, u128> {
        let old = u128::from(self.get(offset, 8)) | u128::from(self.get(offset + 8, 8)) << 64;
        if old != expected {
            return Err(old);
        }
        self.put(offset, 8, new as u64);
        self.put(offset + 8, 8, (new >> 64) as u64);
        Ok(old)
    }
    #[inline]
    fn code_version(&self) -> u32 {
        self.0.version.load(Ordering::Relaxed)
    }
    fn watch_code(&self) {
        self.0.watched.store(true, Ordering::Relaxed);
    }
    fn is_watched(&self) -> bool {
        self.0.watched.load(Ordering::Relaxed)
    }
    fn host(&self) -> Option<HostPage> {
        Some(HostPage {
            bytes: NonNull::from(&self.0.words).cast(),
            code_version: NonNull::from(&self.0.version),
        })
    }
}

/// Pages by address, made when first touched below `limit`; guest-physical is host-physical.
pub struct FlatGuest {
    pub pages: HashMap<u64, FlatPage>,
    pub limit: u64,
    /// Second-level answers that differ from "all rights, same address".
    pub second_level: HashMap<u64, Result<EptPermissions, EptFault>>,
    pub events: PendingEvents,
    pub host_vector: u8,
    pub posted: [u64; 4],
    pub random: u64,
    pub msrs: HashMap<u32, u64>,
    /// Added to the ticks of a run to make the TSC.
    pub clock: u64,
}

impl FlatGuest {
    pub fn new(limit: u64) -> FlatGuest {
        FlatGuest {
            pages: HashMap::new(),
            limit,
            second_level: HashMap::new(),
            events: PendingEvents::default(),
            host_vector: 0,
            posted: [0; 4],
            random: 0x0123_4567_89AB_CDEF,
            msrs: HashMap::new(),
            clock: 0,
        }
    }
    /// Makes `copy` the same guest on pages of its own. Those that it has already keep their handles.
    pub fn copy_to(&self, copy: &mut FlatGuest) {
        copy.limit = self.limit;
        copy.second_level.clone_from(&self.second_level);
        copy.events = self.events;
        copy.host_vector = self.host_vector;
        copy.posted = self.posted;
        copy.random = self.random;
        copy.msrs.clone_from(&self.msrs);
        copy.clock = self.clock;
        for at in self.pages.keys() {
            copy.pages.entry(*at).or_default();
        }
        let untouched = FlatPage::default();
        for (at, other) in &copy.pages {
            let page = self.pages.get(at).unwrap_or(&untouched);
            for offset in (0..4096).step_by(8) {
                let value = page.load_u64(offset);
                if other.load_u64(offset) != value {
                    other.store_u64(offset, value);
                }
            }
        }
    }
    fn at(&mut self, address: u64) -> Option<FlatPage> {
        let page = address & !0xFFF;
        (page < self.limit).then(|| self.pages.entry(page).or_default().clone())
    }
    pub fn put(&mut self, mut address: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let offset = (address & 0xFFF) as usize;
            let (now, later) = bytes.split_at(bytes.len().min(4096 - offset));
            if let Some(page) = self.at(address) {
                page.write(offset, now);
            }
            address += now.len() as u64;
            bytes = later;
        }
    }
    pub fn get(&mut self, mut address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0xFF; length];
        let mut rest = bytes.as_mut_slice();
        while !rest.is_empty() {
            let offset = (address & 0xFFF) as usize;
            let now = rest.len().min(4096 - offset);
            let (head, tail) = rest.split_at_mut(now);
            if let Some(page) = self.at(address) {
                page.read(offset, head);
            }
            address += now as u64;
            rest = tail;
        }
        bytes
    }
    pub fn put_u64(&mut self, address: u64, value: u64) {
        self.put(address, &value.to_le_bytes());
    }
    pub fn get_u64(&mut self, address: u64) -> u64 {
        u64::from_le_bytes(self.get(address, 8).try_into().expect("eight bytes"))
    }
}

impl Platform for FlatGuest {
    type Page = FlatPage;

    fn translate(&mut self, gpa: Gpa, access: Access) -> Result<SecondLevelMapping, EptFault> {
        let permissions = match self.second_level.get(&gpa.page().raw()) {
            Some(&Err(fault)) => return Err(fault),
            Some(&Ok(permissions)) => permissions,
            None => EptPermissions::RWX,
        };
        if !permissions.allow(access) {
            return Err(EptFault::Violation {
                allowed: permissions,
                suppress_ve: true,
            });
        }
        Ok(SecondLevelMapping {
            page: KeyedHpa::new(Hpa::new(gpa.page().raw()), Hkid(0)),
            level: 0,
            permissions,
        })
    }
    fn page(&mut self, page: KeyedHpa) -> Option<FlatPage> {
        self.at(page.hpa.raw())
    }
    fn read(&mut self, _from: KeyedHpa, to: &mut [u8]) -> Result<(), MachineCheck> {
        to.fill(0xFF);
        Ok(())
    }
    fn write(&mut self, _to: KeyedHpa, _from: &[u8]) -> Result<(), MachineCheck> {
        Ok(())
    }
    fn tsc(&mut self, ticks: u64) -> u64 {
        self.clock + ticks
    }
    fn random(&mut self) -> Option<u64> {
        self.random = self
            .random
            .wrapping_mul(0x5851_F42D_4C95_7F2D)
            .wrapping_add(1);
        Some(self.random)
    }
    fn pending_events(&mut self) -> PendingEvents {
        self.events
    }
    fn acknowledge_interrupt(&mut self) -> u8 {
        self.events.interrupt = false;
        self.host_vector
    }
    fn take_posted_interrupts(&mut self, _descriptor: u64) -> [u64; 4] {
        std::mem::take(&mut self.posted)
    }
    fn read_msr(&mut self, msr: u32) -> Option<u64> {
        self.msrs.get(&msr).copied()
    }
    fn write_msr(&mut self, msr: u32, value: u64) -> bool {
        self.msrs.insert(msr, value);
        true
    }
}

fn flat_segments(vcpu: &mut Vcpu, code: u32, data: u32) {
    for (index, segment) in vcpu.regs.segments.iter_mut().enumerate() {
        let cs = index == Seg::Cs as usize;
        *segment = Segment {
            selector: if cs { 8 } else { 16 },
            limit: 0xFFFF_FFFF,
            access: if cs { code } else { data },
            base: 0,
        };
    }
}

/// A vCPU in flat 32-bit protected mode without paging at ring `cpl`.
pub fn protected_vcpu(cpl: u8) -> Vcpu {
    let mut vcpu = Vcpu::default();
    let dpl = u32::from(cpl) << 5;
    flat_segments(&mut vcpu, 0xC09B | dpl, 0xC093 | dpl);
    vcpu.regs.cr0 = 0x21;
    vcpu.regs.cr4 = 0x600;
    vcpu.regs.rflags = 2;
    vcpu.regs.xcr0 = 7;
    vcpu.regs.dr6 = 0xFFFF_0FF0;
    vcpu.regs.dr7 = 0x400;
    vcpu
}

/// A vCPU in 64-bit mode at ring `cpl` and identity page tables below `tables` + 0x4000: one 1 GiB page of user
/// rights at 0, made in `guest`.
pub fn long_vcpu(guest: &mut FlatGuest, tables: u64, cpl: u8) -> Vcpu {
    let mut vcpu = protected_vcpu(cpl);
    vcpu.regs.segments[Seg::Cs as usize].access = 0xA09B | u32::from(cpl) << 5;
    vcpu.regs.cr0 = 0x8001_0033;
    vcpu.regs.cr4 |= 0x20 | 1 << 18 | 1 << 16;
    vcpu.regs.msr.efer = 0xD01;
    vcpu.regs.cr3 = tables;
    guest.put_u64(tables, tables + 0x1000 | 7);
    guest.put_u64(tables + 0x1000, 0x87);
    vcpu
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stop;
    use crate::side_by_side::SideBySide;

    #[test]
    fn an_instruction_that_is_not_implemented_raises_ud_and_without_an_idt_that_is_a_triple_fault()
    {
        let mut guest = FlatGuest::new(0x10_0000);
        let mut vcpu = long_vcpu(&mut guest, 0x1000, 0);
        guest.put(0x8000, &[0x0F, 0x0B]);
        vcpu.regs.rip = 0x8000;
        let ran = SideBySide::new().run(&mut vcpu, &mut guest, 100);
        assert_eq!(ran.stop, Stop::Exit);
        assert_eq!(vcpu.exit.basic_reason(), x86_arch::ExitReason::TRIPLE_FAULT);
    }
}
