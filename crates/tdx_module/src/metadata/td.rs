//! Fields of a TD (host-metadata.md 3).

use super::{Accessor, Field, Scope, combine};
use crate::cpuid::{ROWS, ROWS_1F, pair};
use crate::lock::Side;
use crate::lock_order::{Lock, Order};
use crate::refusal::BusyOn;
use crate::sys::SysInfo;
use crate::td::{Hash384, Td, td_ctls};
use core::sync::atomic::{AtomicU64, Ordering};
use tdx_abi::metadata::CPUID_CLASS;
use tdx_abi::{CpuidFieldCode, FieldId, OperandId, Status};

/// Classes of the TD context.
mod class {
    pub const TDR: u8 = 0;
    pub const KEYS: u8 = 1;
    pub const PRESERVING: u8 = 2;
    pub const MANAGEMENT: u8 = 16;
    pub const CONTROLS: u8 = 17;
    pub const EPOCH: u8 = 18;
    pub const MEASUREMENT: u8 = 19;
    pub const VIRTUAL_MSRS: u8 = 22;
    pub const MIGRATION: u8 = 24;
    pub const SERVTD: u8 = 25;
    pub const MSR_BITMAPS: u8 = 32;
    pub const SEPT_ROOT: u8 = 33;
}

const NOTIFY_ENABLES: u32 = 0x10;
const HP_LOCK_TIMEOUT: u32 = 0x11;
const VM_CTLS: u32 = 0x12;
const TD_CTLS: u32 = 0x17;
const TOPOLOGY_ENUM_CONFIGURED: u32 = 0x19;
const MIG_DEC_KEY: u32 = 0x10;
const MIG_VERSION: u32 = 0x20;
/// CONFIG_FLAGS.FLEXIBLE_PENDING_VE.
const FLEXIBLE_PENDING_VE: u64 = 1 << 1;
const MICROSECONDS: u64 = 1_000_000;

/// A TD whose fields are read or written.
pub struct TdFields<'a> {
    pub td: &'a Td,
    pub sys: &'a SysInfo,
    /// TSC of the calling processor.
    pub tsc: u64,
    pub accessor: Accessor,
    /// What the calling processor holds.
    pub order: &'a Order,
}

/// The CPUID row of a field code, or `None` when it names none (host-metadata.md 3.1, step 2).
pub fn cpuid_row(code: CpuidFieldCode) -> Option<usize> {
    if code.0 & !0x1_FFFF != 0 {
        return None;
    }
    ROWS.iter().position(|row| {
        row.leaf == code.leaf()
            && match row.subleaf {
                None => true,
                Some(subleaf) => code.subleaf_na() == 0 && code.subleaf() == subleaf,
            }
    })
}

impl TdFields<'_> {
    pub fn scope(&self) -> Scope {
        let config = &self.td.config;
        Scope::td(config.num_l2_vms, config.cpuid.topology.is_some())
    }

    /// Finds a field that exists for this TD: lookup and CPUID validity, before any mask.
    fn find(&self, id: FieldId) -> Result<Field, Status> {
        let field = self.scope().find(id)?;
        if field.class() == CPUID_CLASS {
            let row = cpuid_row(CpuidFieldCode(field.code()))
                .ok_or(Status::METADATA_FIELD_ID_INCORRECT)?;
            let topology = self.td.config.cpuid.topology.is_some() && ROWS_1F.contains(&row);
            if ROWS[row].faulting && !topology {
                return Err(Status::METADATA_FIELD_NOT_READABLE);
            }
        }
        Ok(field)
    }

    /// Reads an element; also the id of the next one.
    pub fn read(&self, id: FieldId) -> Result<(u64, FieldId), Status> {
        let field = self.find(id)?;
        let mask = self.accessor.masks(field.row).read;
        if mask == 0 {
            return Err(Status::METADATA_FIELD_NOT_READABLE);
        }
        let value = self.element(&field)? & field.row.value_mask() & mask;
        Ok((value, self.scope().next_readable(self.accessor, &field)))
    }

    /// Writes an element; gives the previous value.
    pub fn write(&self, id: FieldId, value: u64, request: u64) -> Result<u64, Status> {
        let field = self.find(id)?;
        let masks = self.accessor.masks(field.row);
        let current = self.element(&field)? & field.row.value_mask();
        let new = combine(current, value, request, masks.write)?;
        self.store(&field, current, new, masks.write & request)?;
        Ok(current & masks.read)
    }

    fn store(&self, field: &Field, current: u64, new: u64, combined: u64) -> Result<(), Status> {
        let td = self.td;
        let swap = |word: &AtomicU64| {
            let done = word.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire);
            done.map(|_| ())
                .map_err(|_| Status::OPERAND_BUSY.with_operand(OperandId::METADATA_FIELD))
        };
        match (field.class(), field.code()) {
            (class::CONTROLS, NOTIFY_ENABLES) => swap(&td.notify_enables),
            (class::CONTROLS, HP_LOCK_TIMEOUT) => {
                if combined != u64::MAX {
                    return Err(Status::METADATA_WR_MASK_NOT_VALID);
                }
                if !(10_000..=100_000_000).contains(&new) {
                    return Err(Status::METADATA_FIELD_VALUE_NOT_VALID);
                }
                td.hp_lock_timeout.store(self.ticks(new), Ordering::Release);
                Ok(())
            }
            (class::CONTROLS, code @ VM_CTLS..=0x15) => {
                swap(&td.vm_ctls[(code - VM_CTLS) as usize])
            }
            (class::CONTROLS, TD_CTLS) => {
                let flexible = td.config.config_flags & FLEXIBLE_PENDING_VE != 0;
                if (new ^ current) & td_ctls::PENDING_VE_DISABLE != 0 && !flexible {
                    return Err(Status::METADATA_FIELD_VALUE_NOT_VALID);
                }
                if new & td_ctls::ENUM_TOPOLOGY != 0 && !td.topology.is_configured() {
                    return Err(Status::METADATA_FIELD_VALUE_NOT_VALID);
                }
                swap(&td.td_ctls)
            }
            (class::MIGRATION, code @ MIG_DEC_KEY..=0x13) => {
                swap(&td.migration.dec_key[(code - MIG_DEC_KEY) as usize])?;
                td.migration.dec_key_set.store(true, Ordering::Release);
                Ok(())
            }
            (class::MIGRATION, MIG_VERSION) if new == 0 => Ok(()),
            (class::MIGRATION, MIG_VERSION) => Err(Status::METADATA_FIELD_VALUE_NOT_VALID),
            _ => Err(Status::METADATA_FIELD_NOT_WRITABLE),
        }
    }

    fn ticks(&self, microseconds: u64) -> u64 {
        let ticks = u128::from(microseconds as u32) * u128::from(self.sys.cpuid.native_tsc_hz);
        (ticks / u128::from(MICROSECONDS)) as u64
    }
    fn microseconds(&self, ticks: u64) -> u64 {
        let ticks = ticks.min(u64::MAX / MICROSECONDS);
        ticks * MICROSECONDS / self.sys.cpuid.native_tsc_hz
    }

    /// The whole element, before masks.
    fn element(&self, field: &Field) -> Result<u64, Status> {
        let (td, code) = (self.td, field.code());
        let nth = |first: u32| (code - first) as usize;
        let page = |page: usize| {
            td.tdcx
                .get(page)
                .map_or(0, |hpa| self.sys.join(td.keyed(*hpa)))
        };
        Ok(match (field.class(), code) {
            (class::TDR, 1) => td.is_fatal() as u64,
            (class::TDR, 2) => td.tdcx.len() as u64,
            (class::TDR, 4) => td.chldcnt(),
            (class::TDR, 5) => td.life_cycle as u64,
            (class::TDR, 0x10..=0x18) => page(nth(0x10)),
            (class::TDR, 0x20..=0x23) => td.uuid[nth(0x20)],
            (class::KEYS, 1) => td.hkid.0 as u64,
            (class::KEYS, 2) => td.pkg_config_bitmap as u64,
            (class::PRESERVING, 0) => td.handoff_version as u64,
            (class::PRESERVING, 1) => td.seamdb_index,
            (class::PRESERVING, 2..=5) => td.seamdb_nonce[nth(2)],
            (class::MANAGEMENT, 1) => td.num_vcpus.load(Ordering::Acquire) as u64,
            (class::MANAGEMENT, 2) => td.num_assoc_vcpus.load(Ordering::Acquire) as u64,
            (class::MANAGEMENT, 4) => td.op_state() as u64,
            (class::MANAGEMENT, 5) => td.config.num_l2_vms as u64,
            (class::CONTROLS, _) => self.control(code),
            (class::EPOCH, 0) => td.epoch.current(),
            (class::EPOCH, 1..=2) => td.epoch.references(nth(1)) as u64,
            (class::MEASUREMENT, _) => self.measurement(code)?,
            (CPUID_CLASS, _) => {
                let row = cpuid_row(CpuidFieldCode(code)).unwrap_or(0);
                pair(&td.config.cpuid.values[row], 2 * (code & 1) as usize)
            }
            (class::VIRTUAL_MSRS, 0x10A) => td.config.arch_capabilities,
            (class::VIRTUAL_MSRS, msr) => td.config.vmx.read(msr).unwrap_or(0),
            (class::MIGRATION, _) => self.migration(code),
            (class::SERVTD, 0..=5) => word(&td.servtd_hash, nth(0)),
            (class::SERVTD, 6) => (self.bindings()?[0] as u8 != 0) as u64,
            (class::SERVTD, 0x80..=0x8F) => self.bindings()?[nth(0x80)],
            (class::MSR_BITMAPS, 0..=511) => {
                let row = &td.config.msr_bitmap.bits[nth(0) / 128];
                let at = nth(0) % 128 * 8;
                u64::from_le_bytes(row[at..at + 8].try_into().unwrap_or([0; 8]))
            }
            (class::SEPT_ROOT, 0..=511) => td
                .sept
                .root(crate::sept::L1)
                .map_or(0, |root| root.entry(nth(0)).0),
            _ => 0,
        })
    }

    fn control(&self, code: u32) -> u64 {
        let (td, config) = (self.td, &self.td.config);
        match code {
            0 => config.attributes,
            1 => config.xfam.0,
            2 => config.max_vcpus as u64,
            3 => config.gpaw() as u64,
            4 => config.eptp,
            0xA => config.tsc_offset,
            0xB => config.tsc_multiplier,
            0xC => config.tsc_frequency as u64,
            0xD => virtual_tsc(td, self.tsc),
            0xE => ROWS.len() as u64,
            0xF => config.xbuff.size as u64,
            NOTIFY_ENABLES => td.notify_enables.load(Ordering::Acquire),
            HP_LOCK_TIMEOUT => self.microseconds(td.hp_lock_timeout.load(Ordering::Acquire)),
            VM_CTLS..=0x15 => td.vm_ctls[(code - VM_CTLS) as usize].load(Ordering::Acquire),
            0x16 => config.config_flags,
            TD_CTLS => td.td_ctls.load(Ordering::Acquire),
            TOPOLOGY_ENUM_CONFIGURED => td.topology.is_configured() as u64,
            0x80..=0xCF => {
                let row = (code - 0x80) as usize;
                let topology = config.cpuid.topology.is_some() && ROWS_1F.contains(&row);
                (topology || ROWS.get(row).is_some_and(|row| !row.faulting)) as u64
            }
            0x800..=0x812 => config.xbuff.offsets[(code - 0x800) as usize] as u64,
            _ => 0,
        }
    }

    fn measurement(&self, code: u32) -> Result<u64, Status> {
        let (td, config) = (self.td, &self.td.config);
        Ok(match code {
            0..=5 => word(&td.measurement.mrtd(), code as usize),
            0x10..=0x15 => word(&config.mrconfigid, code as usize - 0x10),
            0x18..=0x1D => word(&config.mrowner, code as usize - 0x18),
            0x20..=0x25 => word(&config.mrownerconfig, code as usize - 0x20),
            0x40..=0x57 => {
                let rtmr = td.rtmr.shared(Side::Host);
                let rtmr = self.order.hold(Lock::Rtmr, rtmr).busy(OperandId::RTMR);
                let rtmr = rtmr.map_err(|refusal| refusal.status())?;
                let n = code as usize - 0x40;
                word(&rtmr.values[n / 6], n % 6)
            }
            _ => 0,
        })
    }

    fn migration(&self, code: u32) -> u64 {
        let migration = &self.td.migration;
        match code {
            1 => migration.dec_key_set.load(Ordering::Acquire) as u64,
            MIG_DEC_KEY..=0x13 => {
                migration.dec_key[(code - MIG_DEC_KEY) as usize].load(Ordering::Acquire)
            }
            0x18..=0x1B => migration.enc_key[(code - 0x18) as usize],
            MIG_VERSION => migration.version.load(Ordering::Acquire) as u64,
            0x32 => migration.num_migs.load(Ordering::Acquire) as u64,
            _ => 0,
        }
    }

    /// SERVTD_BINDINGS_TABLE\[0\] as its 16 words.
    fn bindings(&self) -> Result<[u64; 16], Status> {
        let binding = self
            .order
            .hold(Lock::ServtdBindings, self.td.servtd.shared(Side::Host))
            .busy(OperandId::SERVTD_BINDINGS);
        let binding = binding.map_err(|refusal| refusal.status())?;
        let mut words = [0; 16];
        words[0] = binding.state as u64 | (binding.servtd_type as u64) << 16;
        words[1] = binding.attributes;
        words[2..6].copy_from_slice(&binding.uuid);
        for (n, to) in words[6..12].iter_mut().enumerate() {
            *to = word(&binding.info_hash, n);
        }
        Ok(words)
    }
}

/// Word `n` of a hash.
fn word(hash: &Hash384, n: usize) -> u64 {
    u64::from_le_bytes(hash.0[8 * n..8 * n + 8].try_into().unwrap_or([0; 8]))
}

/// The TD's TSC for a native value (guest-virtualization.md 9).
pub fn virtual_tsc(td: &Td, tsc: u64) -> u64 {
    let scaled = (u128::from(tsc) * u128::from(td.config.tsc_multiplier)) >> 48;
    (scaled as u64).wrapping_add(td.config.tsc_offset)
}
