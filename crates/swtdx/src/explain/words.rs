//! Bit words: mappings, Secure EPT entries, masks, attributes.

use tdx_abi::{
    Attributes, ConfigFlags, GpaMapping, ReportedSeptState, SeptEntry, SeptEntryInfo, SeptState,
    TdvmcallControl, Xfam, level_name, level_size,
};

use super::reading::Reading;

/// Everything a number without a kind could be.
pub fn read_anything(number: u64) -> Vec<Reading> {
    let could_be = |mut reading: Reading| {
        reading.title = format!("{} (if it is one)", reading.title);
        reading
    };
    let mut readings = Vec::new();
    let mapping = GpaMapping(number);
    if mapping.unnamed() == 0
        && level_name(mapping.level() as u8).is_some()
        && mapping.is_aligned()
        && number >= 4096
    {
        readings.push(read_gpa_mapping(number));
    }
    if number != 0 && Attributes(number).unnamed() == 0 {
        readings.push(read_attributes(number));
    }
    if Xfam(number).unnamed() == 0 && Xfam(number).contains(Xfam::FIXED1) {
        readings.push(read_xfam(number));
    }
    if number != 0 && TdvmcallControl(number).is_legal(false) && number & 0xFC00 != 0 {
        readings.push(read_mask(number));
    }
    if number & SeptEntry::FREE.0 != 0 && number >> 63 != 0 && number & !SeptEntry::NAMED == 0 {
        readings.push(read_sept_entry(number, None));
    }
    readings.into_iter().map(could_be).collect()
}

/// Reads a GPA with its mapping level.
pub fn read_gpa_mapping(raw: u64) -> Reading {
    let mapping = GpaMapping(raw);
    let mut reading = Reading::new("GPA mapping", mapping);
    let level = mapping.level() as u8;
    if level_name(level).is_none() {
        return reading.with("refused", format!("level {level}; 4 is the highest"));
    }
    if !mapping.is_aligned() {
        let text = format!(
            "the address is not a multiple of {:#x}, which the level maps",
            level_size(level)
        );
        reading = reading.with("refused", text);
    }
    let address = mapping.address().raw();
    let shared = match (address >> 47 & 1, address >> 51 & 1) {
        (0, 0) => "private in a TD of either width",
        (1, 0) => "shared if the TD's GPAW is 48 (bit 47), private if it is 52",
        (_, _) => "shared if the TD's GPAW is 52 (bit 51), too wide for 48",
    };
    reading.with("side", shared)
}

/// Reads a Secure EPT entry as the leaves report it (RCX), with its level and state (RDX).
pub fn read_sept_entry(raw: u64, info: Option<u64>) -> Reading {
    let entry = SeptEntry(raw);
    let mut reading = Reading::new("Secure EPT entry", entry);
    if raw == SeptEntry::FREE_REPORTED.0 {
        reading = reading.with("reads", "as a FREE entry is reported");
    } else if raw & 0x7 == 0 && entry.leaf() == 0 && entry.base() == 0 {
        reading = reading.with("reads", "maps nothing");
    } else {
        let access: String = [
            (entry.readable(), 'R'),
            (entry.writable(), 'W'),
            (entry.executable(), 'X'),
        ]
        .iter()
        .map(|(is, letter)| if *is != 0 { *letter } else { '-' })
        .collect();
        let what = if entry.leaf() != 0 { "page" } else { "table" };
        reading = reading.with(
            "reads",
            format!(
                "{access} {what} at {:#x}, memory type {}",
                entry.base() << 12,
                entry.memory_type()
            ),
        );
    }
    reading = reading.with(
        "suppress #VE",
        if entry.suppress_ve() != 0 {
            "yes"
        } else {
            "no"
        },
    );
    // A reported entry has lost the bits that tell some states apart; only an entry from memory has them.
    let in_memory = raw & SeptState::STATE_MASK & !SeptEntry::LEAF_MASK != 0;
    if let Some(state) = SeptState::of_entry(raw).filter(|_| in_memory) {
        reading = reading.with(
            "state bits",
            format!("{state}, as the entry lies in memory"),
        );
    }
    if let Some(info) = info {
        reading = reading.with("where", sept_info(SeptEntryInfo(info)));
    }
    reading.with_if(
        entry.unnamed() != 0,
        "unknown bits",
        format!("{:#x}", entry.unnamed()),
    )
}

/// Reads RDX of the Secure EPT leaves.
pub fn read_sept_info(raw: u64) -> Reading {
    let info = SeptEntryInfo(raw);
    Reading::new("Secure EPT entry information", sept_info(info)).with_if(
        info.unnamed() != 0,
        "unknown bits",
        format!("{:#x}", info.unnamed()),
    )
}

fn sept_info(info: SeptEntryInfo) -> String {
    let state = match ReportedSeptState::from_raw(info.state() as u8) {
        Some(state) => state.to_string(),
        None => format!("unknown state {:#04x}", info.state()),
    };
    let level = level_name(info.level() as u8).unwrap_or("no such level");
    let vm = match info.vm() {
        0 => "L1".to_owned(),
        vm => format!("L2 VM {vm}"),
    };
    format!("{state} at level {} ({level}), {vm}", info.level())
}

/// Reads RCX of TDG.VP.VMCALL.
pub fn read_mask(raw: u64) -> Reading {
    let mask = TdvmcallControl(raw);
    let reading = Reading::new("TDG.VP.VMCALL register mask", mask.registers());
    let verdict = match (mask.is_legal(false), mask.is_legal(true)) {
        (true, true) => "accepted".to_owned(),
        (true, false) => "accepted only without CONFIG_FLAGS.NO_RBP_MOD: it selects RBP".to_owned(),
        (false, _) => {
            let never = TdvmcallControl(raw & TdvmcallControl::NEVER);
            let registers = if never.0 != 0 {
                format!("{} cannot cross", never.registers())
            } else {
                String::new()
            };
            let high = if mask.unnamed() != 0 {
                format!("unknown bits {:#x}", mask.unnamed())
            } else {
                String::new()
            };
            let reasons: Vec<String> = [registers, high]
                .into_iter()
                .filter(|r| !r.is_empty())
                .collect();
            format!(
                "refused with TDX_OPERAND_INVALID(RCX): {}",
                reasons.join(", ")
            )
        }
    };
    let unserved: Vec<&str> = tdx_abi::VMCALLS
        .iter()
        .filter(|row| row.needed().0 & !raw != 0)
        .map(|row| row.name)
        .collect();
    reading.with("module", verdict).with_if(
        !unserved.is_empty(),
        "too small for",
        unserved.join(", "),
    )
}

/// Reads TD attributes.
pub fn read_attributes(raw: u64) -> Reading {
    let attributes = Attributes(raw);
    let forbidden = raw & !Attributes::FIXED0.0;
    Reading::new("ATTRIBUTES", attributes)
        .with(
            "debug",
            if attributes.contains(Attributes::DEBUG) {
                "yes: the VMM sees everything; do not trust this TD"
            } else {
                "no"
            },
        )
        .with_if(
            forbidden & Attributes::NAMED != 0,
            "not allowed",
            format!(
                "{} by module 1.5.01",
                Attributes(forbidden & Attributes::NAMED)
            ),
        )
        .with_if(
            attributes.unnamed() != 0,
            "unknown bits",
            format!("{:#x}", attributes.unnamed()),
        )
}

/// Reads XFAM.
pub fn read_xfam(raw: u64) -> Reading {
    let xfam = Xfam(raw);
    let pair = |a: Xfam, b: Xfam| xfam.contains(a) != xfam.contains(b);
    let avx512 = Xfam::AVX3_KMASK | Xfam::AVX3_ZMM_HI | Xfam::AVX3_ZMM;
    let mut problems = Vec::new();
    if !xfam.contains(Xfam::FIXED1) {
        problems.push("X87_FPU_MMX and SSE must be set".to_owned());
    }
    let some = Xfam(raw & avx512.0);
    if some.0 != 0 && (some != avx512 || !xfam.contains(Xfam::AVX)) {
        problems.push("AVX-512 needs its three bits and AVX".to_owned());
    }
    if pair(Xfam::CET_U, Xfam::CET_S) {
        problems.push("CET_U and CET_S go together".to_owned());
    }
    if pair(Xfam::AMX_XTILECFG, Xfam::AMX_XTILEDATA) {
        problems.push("both AMX bits go together".to_owned());
    }
    let forbidden = Xfam(raw & !Xfam::FIXED0.0 & Xfam::NAMED);
    if forbidden.0 != 0 {
        problems.push(format!("module 1.5.01 does not allow {forbidden}"));
    }
    Reading::new("XFAM", xfam)
        .with_if(!problems.is_empty(), "refused", problems.join("; "))
        .with_if(
            xfam.unnamed() != 0,
            "unknown bits",
            format!("{:#x}", xfam.unnamed()),
        )
}

/// Reads CONFIG_FLAGS.
pub fn read_config_flags(raw: u64) -> Reading {
    let flags = ConfigFlags(raw);
    let width = if flags.contains(ConfigFlags::GPAW) {
        "52 bits, SHARED is bit 51"
    } else {
        "48 bits, SHARED is bit 47"
    };
    Reading::new("CONFIG_FLAGS", flags)
        .with("GPA width", width)
        .with_if(
            flags.unnamed() != 0,
            "unknown bits",
            format!("{:#x}", flags.unnamed()),
        )
}
