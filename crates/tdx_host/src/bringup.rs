//! From a loaded module to one that takes TDs (spec: linux.md 3.1, host-platform.md 3).

use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use tdx_call::host::{
    tdh_sys_config, tdh_sys_init, tdh_sys_key_config, tdh_sys_lp_init, tdh_sys_rd,
    tdh_sys_tdmr_init,
};
use tdx_call::{FieldId, HostMemory, SeamcallLp};
use x86_arch::{Hkid, Hpa, PAGE_SIZE};

use crate::config::CpuidConfig;
use crate::field::sys;
use crate::hkid::HkidAllocator;
use crate::seam::retry;
use crate::tdmr::TDMR_INFO_SIZE;
use crate::{HostError, PageAllocator, Tdmr, plan_tdmrs};

/// A logical processor that takes SEAMCALL, and the package it sits in.
#[derive(Debug)]
pub struct Lp<L> {
    pub seam: L,
    pub package: u32,
}

/// What the host's firmware and MSRs say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostLayout {
    /// Free physical memory, ascending, that the host gives to TDX.
    pub memory: Vec<Range<u64>>,
    /// The private key IDs (MSR 0x87); the first becomes the module's own.
    pub private_keys: Range<u16>,
    /// Width of the key-ID field at the top of a 52-bit address (IA32_TME_ACTIVATE 35:32).
    pub keyid_bits: u8,
}

/// What the module says about itself (TDH.SYS.RD).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ModuleInfo {
    pub major: u16,
    pub minor: u16,
    pub update: u16,
    pub features0: u64,
    pub max_tdmrs: u16,
    pub max_reserved_per_tdmr: u16,
    /// Bytes of a PAMT entry for 4 KiB, 2 MiB and 1 GiB pages.
    pub pamt_entry_sizes: [u16; 3],
    /// TDCX pages of a TD without L2 VMs.
    pub tdcs_pages: u16,
    /// Pages of a vCPU, its TDVPR included.
    pub tdvps_pages: u16,
    /// ATTRIBUTES bits that may be 1, and those that must be.
    pub attributes_allowed: u64,
    pub attributes_required: u64,
    pub xfam_allowed: u64,
    pub xfam_required: u64,
    /// The CPUID leaves that TD_PARAMS configures, in its order.
    pub cpuid_config: Vec<CpuidConfig>,
    pub cmrs: Vec<Range<u64>>,
}

impl ModuleInfo {
    /// TDX_FEATURES0 bit 20: TDH.VP.INIT version 1 takes an x2APIC ID, and guests can enumerate their topology.
    pub fn takes_x2apic_ids(&self) -> bool {
        self.features0 & 1 << 20 != 0
    }
    /// TDX_FEATURES0 bit 18: a TD may be built so that the module never changes RBP.
    pub fn no_rbp_mod(&self) -> bool {
        self.features0 & 1 << 18 != 0
    }
}

/// A host with a module that is ready: its memory, keys and pages. Shared by all its TDs and processors.
#[derive(Debug)]
pub struct Host<M> {
    memory: M,
    info: ModuleInfo,
    tdmrs: Vec<Tdmr>,
    pages: Mutex<PageAllocator>,
    hkids: Mutex<HkidAllocator>,
    global_hkid: Hkid,
    keyid_shift: u32,
}

impl<M: HostMemory> Host<M> {
    /// Initialises the module on all processors and gives it memory and its key.
    pub fn bring_up<L: SeamcallLp>(
        memory: M,
        layout: &HostLayout,
        lps: &mut [Lp<L>],
    ) -> Result<Self, HostError> {
        if layout.private_keys.len() < 2 {
            return Err(HostError::NoPrivateKeys);
        }
        let Some(first) = lps.first_mut() else {
            return Err(HostError::NoProcessors);
        };
        retry(|| tdh_sys_init(&mut first.seam))?;
        for lp in lps.iter_mut() {
            retry(|| tdh_sys_lp_init(&mut lp.seam))?;
        }
        let lp = &mut lps[0].seam;
        let info = read_info(lp)?;
        let (tdmrs, mut pages) = plan_tdmrs(&info, &info.cmrs, &layout.memory)?;
        let global_hkid = Hkid(layout.private_keys.start);
        configure(lp, &memory, &mut pages, &tdmrs, global_hkid)?;
        for lp in one_per_package(lps) {
            retry(|| tdh_sys_key_config(&mut lp.seam))?;
        }
        let lp = &mut lps[0].seam;
        for tdmr in &tdmrs {
            init_tdmr(lp, tdmr)?;
        }
        Ok(Self {
            memory,
            info,
            tdmrs,
            pages: Mutex::new(pages),
            hkids: Mutex::new(HkidAllocator::new(
                layout.private_keys.start + 1..layout.private_keys.end,
            )),
            global_hkid,
            keyid_shift: 52 - u32::from(layout.keyid_bits),
        })
    }

    pub fn info(&self) -> &ModuleInfo {
        &self.info
    }
    pub fn tdmrs(&self) -> &[Tdmr] {
        &self.tdmrs
    }
    pub fn memory(&self) -> &M {
        &self.memory
    }
    /// Pages that no TD holds.
    pub fn free_pages(&self) -> u64 {
        self.pages().free_pages()
    }
    /// Key IDs that no TD holds.
    pub fn free_hkids(&self) -> usize {
        self.hkids().free()
    }

    pub(crate) fn pages(&self) -> MutexGuard<'_, PageAllocator> {
        self.pages
            .lock()
            .expect("no holder of the page list panics")
    }
    pub(crate) fn hkids(&self) -> MutexGuard<'_, HkidAllocator> {
        self.hkids.lock().expect("no holder of the key list panics")
    }
    pub(crate) fn global_hkid(&self) -> Hkid {
        self.global_hkid
    }
    /// The address with a key ID in it, as TDH.PHYMEM.PAGE.WBINVD takes it.
    pub(crate) fn keyed(&self, page: Hpa, hkid: Hkid) -> Hpa {
        Hpa::new(page.raw() | u64::from(hkid.0) << self.keyid_shift)
    }
    /// A zeroed page of the host's own.
    pub(crate) fn zeroed_page(&self) -> Result<Hpa, HostError> {
        let page = self.pages().take()?;
        match self.memory.clear_page(page) {
            Ok(()) => Ok(page),
            Err(outside) => {
                self.pages().give_back(page);
                Err(outside.into())
            }
        }
    }
    pub(crate) fn read_u64(&self, from: Hpa) -> Result<u64, HostError> {
        let mut bytes = [0; 8];
        self.memory.read(from, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
    /// Sets bits of a word that a processor may be changing; its value before.
    pub(crate) fn set_bits(&self, at: Hpa, bits: u64) -> Result<u64, HostError> {
        Ok(self.memory.set_bits(at, bits)?)
    }
    pub(crate) fn write_u64(&self, to: Hpa, value: u64) -> Result<(), HostError> {
        Ok(self.memory.write(to, &value.to_le_bytes())?)
    }
}

/// The first processor of each package, once each.
pub(crate) fn one_per_package<L>(lps: &mut [Lp<L>]) -> impl Iterator<Item = &mut Lp<L>> {
    let mut seen = std::collections::BTreeSet::new();
    lps.iter_mut().filter(move |lp| seen.insert(lp.package))
}

fn read_field<L: SeamcallLp>(lp: &mut L, field: u64) -> Result<u64, HostError> {
    Ok(retry(|| tdh_sys_rd(lp, FieldId(field)))?.value)
}

fn read_u16<L: SeamcallLp>(lp: &mut L, field: u64) -> Result<u16, HostError> {
    let value = read_field(lp, field)?;
    u16::try_from(value).map_err(|_| HostError::Metadata { field, value })
}

fn read_info<L: SeamcallLp>(lp: &mut L) -> Result<ModuleInfo, HostError> {
    let pages = |field, bytes: u16| match bytes {
        0 => Err(HostError::Metadata { field, value: 0 }),
        bytes => Ok(bytes.div_ceil(PAGE_SIZE as u16)),
    };
    let tdcs_size = read_u16(lp, sys::TDCS_BASE_SIZE)?;
    let tdvps_size = read_u16(lp, sys::TDVPS_BASE_SIZE)?;
    Ok(ModuleInfo {
        major: read_u16(lp, sys::MAJOR_VERSION)?,
        minor: read_u16(lp, sys::MINOR_VERSION)?,
        update: read_u16(lp, sys::UPDATE_VERSION)?,
        features0: read_field(lp, sys::TDX_FEATURES0)?,
        max_tdmrs: read_u16(lp, sys::MAX_TDMRS)?,
        max_reserved_per_tdmr: read_u16(lp, sys::MAX_RESERVED_PER_TDMR)?,
        pamt_entry_sizes: [
            read_u16(lp, sys::PAMT_4K_ENTRY_SIZE)?,
            read_u16(lp, sys::PAMT_2M_ENTRY_SIZE)?,
            read_u16(lp, sys::PAMT_1G_ENTRY_SIZE)?,
        ],
        tdcs_pages: pages(sys::TDCS_BASE_SIZE, tdcs_size)?,
        tdvps_pages: pages(sys::TDVPS_BASE_SIZE, tdvps_size)?,
        attributes_allowed: read_field(lp, sys::ATTRIBUTES_FIXED0)?,
        attributes_required: read_field(lp, sys::ATTRIBUTES_FIXED1)?,
        xfam_allowed: read_field(lp, sys::XFAM_FIXED0)?,
        xfam_required: read_field(lp, sys::XFAM_FIXED1)?,
        cpuid_config: read_cpuid_config(lp)?,
        cmrs: read_cmrs(lp)?,
    })
}

fn read_cpuid_config<L: SeamcallLp>(lp: &mut L) -> Result<Vec<CpuidConfig>, HostError> {
    let count = read_u16(lp, sys::NUM_CPUID_CONFIG)?;
    // The field array of the ABI has 32 elements; TD_PARAMS has room for 48 rows.
    if count > 32 {
        return Err(HostError::Metadata {
            field: sys::NUM_CPUID_CONFIG,
            value: count.into(),
        });
    }
    (0..u64::from(count))
        .map(|i| {
            let leaf = read_field(lp, sys::CPUID_CONFIG_LEAVES + i)?;
            let low = read_field(lp, sys::CPUID_CONFIG_VALUES + 2 * i)?;
            let high = read_field(lp, sys::CPUID_CONFIG_VALUES + 2 * i + 1)?;
            Ok(CpuidConfig::from_fields(leaf, low, high))
        })
        .collect()
}

fn read_cmrs<L: SeamcallLp>(lp: &mut L) -> Result<Vec<Range<u64>>, HostError> {
    let mut cmrs: Vec<Range<u64>> = Vec::new();
    let count = read_u16(lp, sys::NUM_CMRS)?.min(64);
    for i in 0..u64::from(count) {
        let base = read_field(lp, sys::CMR_BASE + i)?;
        let size = read_field(lp, sys::CMR_SIZE + i)?;
        let Some(end) = base.checked_add(size) else {
            return Err(HostError::Metadata {
                field: sys::CMR_SIZE + i,
                value: size,
            });
        };
        if size != 0 {
            cmrs.push(base..end);
        }
    }
    cmrs.sort_by_key(|cmr| cmr.start);
    Ok(cmrs)
}

/// TDH.SYS.CONFIG with the TDMR list in two or more scratch pages, which are free again afterwards.
fn configure<L: SeamcallLp, M: HostMemory>(
    lp: &mut L,
    memory: &M,
    pages: &mut PageAllocator,
    tdmrs: &[Tdmr],
    global_hkid: Hkid,
) -> Result<(), HostError> {
    let per_page = PAGE_SIZE as usize / TDMR_INFO_SIZE;
    let list = pages.take()?;
    memory.clear_page(list)?;
    let mut scratch = vec![list];
    for (i, tdmr) in tdmrs.iter().enumerate() {
        if i % per_page == 0 {
            scratch.push(pages.take()?);
        }
        let page = scratch[scratch.len() - 1];
        let entry = Hpa::new(page.raw() + (i % per_page * TDMR_INFO_SIZE) as u64);
        memory.write(entry, &tdmr.to_bytes())?;
        let slot = Hpa::new(list.raw() + 8 * i as u64);
        memory.write(slot, &entry.raw().to_le_bytes())?;
    }
    retry(|| tdh_sys_config(lp, list, tdmrs.len() as u64, global_hkid))?;
    for page in scratch {
        memory.clear_page(page)?;
        pages.give_back(page);
    }
    Ok(())
}

/// Initialises a TDMR piece by piece; each call does at least a page.
fn init_tdmr<L: SeamcallLp>(lp: &mut L, tdmr: &Tdmr) -> Result<(), HostError> {
    let base = Hpa::new(tdmr.range.start);
    for _ in 0..(tdmr.range.end - tdmr.range.start) / PAGE_SIZE {
        if retry(|| tdh_sys_tdmr_init(lp, base))?.raw() >= tdmr.range.end {
            return Ok(());
        }
    }
    Err(HostError::TdmrStuck(base))
}
