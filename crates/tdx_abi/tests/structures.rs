//! Every structure and word of the crate against the reference layouts.

mod reference;

use reference::{number, table, text};
use serde_json::Value;
use tdx_abi::layout::{BitField, ByteField};
use tdx_abi::*;

/// The module's own layouts, which are no part of its interface and which this crate leaves out.
const INTERNAL: &[&str] = &[
    "PAMT_ENTRY",
    "EPTP",
    "SHAREX_LOCK",
    "SHAREX_HP_LOCK",
    "KOT_ENTRY",
    "WBT_ENTRY",
    "TDR",
    "TDR.TD_MANAGEMENT",
    "TDR.KEY_MANAGEMENT",
    "TDR.TD_PRESERVING",
    "TDCS",
    "TDCS.TD_MANAGEMENT",
    "TDCS.EXECUTION_CONTROLS",
    "TDCS.TLB_EPOCH_TRACKING",
    "EPOCH_AND_REFCOUNT",
    "TDCS.MEASUREMENT",
    "TDCS.MIGRATION",
    "TDCS.VIRT_MSR_VALUES",
    "TDCS.SERVICE_TD",
    "CPUID_FLAGS",
    "TDVPS",
    "TDVPS.MANAGEMENT",
    "TDVPS.GUEST_STATE",
    "TDVPS.GUEST_MSR_STATE",
    "L2_VM_CTRL",
    "MIGSC",
    "MIGSC_LINK",
    "HANDOFF_DATA_HEADER",
    "SYSINFO_TABLE",
];

/// Layouts that are the same bytes as another, compared below or by hand.
const SAME_AS_ANOTHER: &[&str] = &[
    "REPORTDATA",        // [u8; 64]
    "LEAF_AND_VERSION",  // LeafWord
    "COMPLETION_STATUS", // Status
    "GPA_ATTR",          // GpaAttrs
    "ATTR_FLAGS",        // GpaAttrs, with VALID as INVEPT
    "GPRS",              // Gprs
    "MBMD",
    "MBMD.MEM",
    "MBMD.IMMUTABLE_TD_STATE",
    "MBMD.TD_STATE",
    "MBMD.VP_STATE",
    "MBMD.EPOCH_TOKEN",
    "MBMD.ABORT_TOKEN", // Mbmd, whose second word depends on the type
];

macro_rules! structures {
    ($($json:literal $ty:ident),* $(,)?) => { vec![$(($json, $ty::LAYOUT, $ty::SIZE)),*] };
}
macro_rules! words {
    ($($json:literal $ty:ident),* $(,)?) => { vec![$(($json, $ty::FIELDS, size_of::<$ty>())),*] };
}

fn structures() -> Vec<(&'static str, &'static [ByteField], usize)> {
    structures![
        "TD_PARAMS" TdParams, "CPUID_CONFIG" CpuidConfig, "CPUID_VALUES" CpuidValues, "TDMR_INFO" TdmrInfo,
        "CMR_INFO" CmrInfo, "TDSYSINFO_STRUCT" TdSysInfo, "TDREPORT_STRUCT" TdReport, "REPORTMACSTRUCT" ReportMacStruct,
        "TEE_TCB_INFO" TeeTcbInfo, "TDINFO_STRUCT" TdInfo, "VE_INFO" VeInfo, "SERVTD_BINDING" ServtdBinding,
        "L2_ENTER_GUEST_STATE" L2EnterGuestState, "MBMD.HEADER" MbmdHeader,
    ]
}

fn words() -> Vec<(&'static str, &'static [BitField], usize)> {
    words![
        "CPUID_LEAF_SUBLEAF" CpuidLeafSubleaf, "ATTRIBUTES" Attributes, "XFAM" Xfam, "CONFIG_FLAGS" ConfigFlags,
        "EPTP_CONTROLS" EptpControls, "TDSYSINFO.ATTRIBUTES" SysInfoAttributes, "TDX_FEATURES0" TdxFeatures0,
        "REPORTTYPE" ReportType, "GPA_MAPPING" GpaMapping, "GPA_MAPPING_AND_FLAGS" GpaMappingAndFlags,
        "GPA_ATTR_SINGLE_VM" GpaAttr, "TDR_HPA_AND_FLAGS" TdrAndFlags, "HKID_INPUT" HkidOperand,
        "PAGE_SIZE" PageSizeOperand, "TDVPR_HPA_AND_FLAGS" TdvprAndFlags, "TDVMCALL_CONTROL" TdvmcallControl,
        "TD_EXIT_QUALIFICATION" TdExitQualification, "EXTENDED_EXIT_QUALIFICATION" ExtendedExitQualification,
        "EXTENDED_EXIT_QUALIFICATION.INFO" ExtendedExitInfo,
        "L2_EXTENDED_EXIT_QUALIFICATION" L2ExtendedExitQualification, "VMX_EXIT_REASON" TdExitReason,
        "SEPT_ENTRY_ARCH_INFO" SeptEntryInfo, "GPAW_INFO" GpawInfo, "NUM_VCPUS_INFO" NumVcpusInfo,
        "TDG_COMMANDS_AVAILABLE" TdgCommandsAvailable, "MD_FIELD_ID" FieldId, "MD_LIST_HEADER" MdListHeader,
        "VMCS_FIELD_CODE" VmcsFieldCode, "GLA_LIST_INFO" GlaListInfo, "GLA_LIST_ENTRY" GlaListEntry,
        "L2_ENTER_SEG_DETAILS" L2SegmentDetails, "L2_ENTER_ADDITIONAL_EXIT_INFO" L2AdditionalExitInfo,
        "L2_CTLS" L2Ctls, "L2_DEBUG_CTLS" L2DebugCtls, "VM_CTLS" VmCtls, "TD_CTLS" TdCtls,
        "NOTIFY_ENABLES" NotifyEnables, "BEPOCH" Bepoch, "SEPT_ENTRY" SeptEntry, "CPUID_CONTROL" CpuidControl,
        "SERVTD_ATTR" ServtdAttr, "IGNORE_TDINFO" IgnoreTdinfo, "SERVTD_BINDING_HANDLE" ServtdBindingHandle,
        "MIGS_INDEX_AND_COMMAND" MigStreamAndCommand, "HPA_AND_SIZE" HpaAndSize, "HPA_AND_LAST" HpaAndLast,
        "PAGE_LIST_INFO" PageListInfo, "PAGE_LIST_ENTRY" PageListEntry, "GPA_LIST_INFO" GpaListInfo,
        "GPA_LIST_ENTRY" GpaListEntry,
    ]
}

/// The fields of a reference structure: of several overlapping views the one that `crate` chose.
fn fields(entry: &Value) -> Vec<Value> {
    let view = |views: &Value| {
        let wanted = |fields: &Value| {
            fields.as_array().is_some_and(|f| {
                f.iter()
                    .any(|f| f["name"] == "SUPP_VE" && f["bits"] == "63")
                    && f.iter().any(|f| f["name"] == "MT")
            })
        };
        let views = views.as_array().expect("views");
        let chosen = views
            .iter()
            .find(|v| wanted(&v["fields"]))
            .unwrap_or(&views[0]);
        chosen["fields"].as_array().expect("fields").clone()
    };
    let Some(list) = entry["fields"].as_array() else {
        return view(&entry["views"]);
    };
    list.iter()
        .flat_map(|f| {
            if f.get("union_at").is_some() {
                view(&f["views"])
            } else {
                vec![f.clone()]
            }
        })
        .collect()
}

#[test]
fn every_reference_structure_is_modelled_or_named_as_left_out() {
    let Some(reference) = table("structures.json") else {
        return;
    };
    let modelled: Vec<&str> = structures()
        .iter()
        .map(|s| s.0)
        .chain(words().iter().map(|w| w.0))
        .collect();
    let mut seen = 0;
    for entry in reference["structures"].as_array().unwrap() {
        let name = text(entry, "name");
        let ways = [
            modelled.contains(&name),
            INTERNAL.contains(&name),
            SAME_AS_ANOTHER.contains(&name),
        ];
        assert_eq!(
            ways.iter().filter(|way| **way).count(),
            1,
            "{name}: modelled, internal, or same as another?"
        );
        seen += 1;
    }
    assert_eq!(
        seen,
        modelled.len() + INTERNAL.len() + SAME_AS_ANOTHER.len()
    );
}

#[test]
fn every_byte_of_every_structure_is_where_the_reference_has_it() {
    let Some(reference) = table("structures.json") else {
        return;
    };
    for (name, layout, size) in structures() {
        let entry = reference["structures"]
            .as_array()
            .unwrap()
            .iter()
            .find(|e| e["name"] == name)
            .unwrap();
        assert_eq!(number(&entry["size"]) as usize, size, "{name}");
        let expected: Vec<_> = fields(entry)
            .iter()
            .map(|f| {
                (
                    text(f, "name").to_lowercase(),
                    number(&f["offset"]) as usize,
                    number(&f["size"]) as usize,
                )
            })
            .collect();
        let ours: Vec<_> = layout
            .iter()
            .map(|f| (f.name.replace("kind", "type"), f.offset, f.size))
            .collect();
        assert_eq!(ours, expected, "{name}");
    }
}

#[test]
fn every_bit_of_every_word_is_where_the_reference_has_it() {
    let Some(reference) = table("structures.json") else {
        return;
    };
    for (name, layout, size) in words() {
        let entry = reference["structures"]
            .as_array()
            .unwrap()
            .iter()
            .find(|e| e["name"] == name)
            .unwrap();
        assert_eq!(number(&entry["size"]) as usize, size, "{name}");
        let expected: Vec<_> = fields(entry)
            .iter()
            .filter(|f| f["reserved"] != true)
            .map(|f| {
                let (high, low) = text(f, "bits")
                    .split_once(':')
                    .unwrap_or((text(f, "bits"), text(f, "bits")));
                (
                    text(f, "name").to_owned(),
                    high.parse::<u8>().unwrap(),
                    low.parse::<u8>().unwrap(),
                )
            })
            .collect();
        let ours: Vec<_> = layout
            .iter()
            .map(|f| (f.name.to_owned(), f.high, f.low))
            .collect();
        assert_eq!(ours, expected, "{name}");
    }
}

#[test]
fn fixed_bits_and_limits_are_the_reference_s() {
    let Some(reference) = table("structures.json") else {
        return;
    };
    let of = |name: &str| {
        reference["structures"]
            .as_array()
            .unwrap()
            .iter()
            .find(|e| e["name"] == name)
            .unwrap()
    };
    assert_eq!(
        number(&of("ATTRIBUTES")["fixed0_module"]),
        Attributes::FIXED0.0
    );
    assert_eq!(number(&of("XFAM")["fixed0_module"]), Xfam::FIXED0.0);
    assert_eq!(number(&of("XFAM")["fixed1_module"]), Xfam::FIXED1.0);
    assert_eq!(
        number(&of("CONFIG_FLAGS")["fixed0_module"]),
        ConfigFlags::FIXED0.0
    );
    assert_eq!(number(&of("SERVTD_ATTR")["fixed0"]), ServtdAttr::FIXED0.0);
    let constant = |name: &str| number(&reference["constants"][name]);
    assert_eq!(constant("MAX_CMR"), CmrInfo::MAX as u64);
    assert_eq!(constant("MAX_TDMRS"), TdmrInfo::MAX as u64);
    assert_eq!(
        constant("MAX_RESERVED_AREAS"),
        TdmrInfo::MAX_RESERVED_AREAS as u64
    );
    assert_eq!(
        constant("TDMR_INFO_ENTRY_PTR_ARRAY_ALIGNMENT"),
        TdmrInfo::ALIGN
    );
    assert_eq!(constant("MBMD_ALIGN"), Mbmd::ALIGN);
    assert_eq!(constant("TD_PARAMS_ALIGN_IN_BYTES"), TdParams::ALIGN);
    assert_eq!(constant("VIRT_TSC_FREQUENCY_UNIT"), TdParams::TSC_UNIT_HZ);
    assert_eq!(
        constant("VIRT_TSC_FREQUENCY_MIN"),
        *TdParams::TSC_FREQUENCY_RANGE.start() as u64
    );
    assert_eq!(
        constant("VIRT_TSC_FREQUENCY_MAX"),
        *TdParams::TSC_FREQUENCY_RANGE.end() as u64
    );
    let sept = &reference["sept_entry_architectural"];
    assert_eq!(number(&sept["leaf_mask"]), SeptEntry::LEAF_MASK);
    assert_eq!(number(&sept["non_leaf_mask"]), SeptEntry::NON_LEAF_MASK);
    assert_eq!(number(&sept["l2_leaf_mask"]), SeptEntry::L2_LEAF_MASK);
    assert_eq!(
        number(&sept["l2_leaf_debug_mask"]),
        SeptEntry::L2_LEAF_DEBUG_MASK
    );
    assert_eq!(
        number(&sept["l2_non_leaf_mask"]),
        SeptEntry::L2_NON_LEAF_MASK
    );
    assert_eq!(
        number(&reference["control_structure_pages"]["PAMT"]["entry_size"]),
        PAMT_ENTRY_SIZE
    );
    for gpaw in [Gpaw::Bits48, Gpaw::Bits52] {
        let row = &reference["gpa"][if gpaw == Gpaw::Bits48 {
            "GPAW=0"
        } else {
            "GPAW=1"
        }];
        assert_eq!(row["width"].as_u64().unwrap(), gpaw.bits() as u64);
        assert_eq!(1 << row["shared_bit"].as_u64().unwrap(), gpaw.shared_bit());
    }
    let page_types: Vec<_> = reference["page_types"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (text(p, "name"), number(&p["value"])))
        .collect();
    assert_eq!(
        page_types,
        PageType::ALL
            .iter()
            .map(|p| (p.name(), p.raw() as u64))
            .collect::<Vec<_>>()
    );
    let types = &of("EXTENDED_EXIT_QUALIFICATION")["types"];
    assert_eq!(
        types.as_object().unwrap().len(),
        ExtendedExitQualificationType::ALL.len()
    );
    for kind in ExtendedExitQualificationType::ALL {
        assert_eq!(
            types[format!("VMX_EEQ_{}", kind.name())].as_u64(),
            Some(kind.raw() as u64),
            "{kind}"
        );
    }
    let types = &of("MBMD.HEADER")["mb_types"];
    for kind in MigrationBundleType::ALL {
        assert_eq!(
            types[kind.name()].as_u64(),
            Some(kind.raw() as u64),
            "{kind}"
        );
    }
    let states = &of("SERVTD_BINDING")["states"];
    for state in ServtdBindingState::ALL {
        assert_eq!(
            states[state.name()].as_u64(),
            Some(state.raw() as u64),
            "{state}"
        );
    }
}

#[test]
fn every_exit_reason_is_the_reference_s() {
    let Some(reference) = table("structures.json") else {
        return;
    };
    let expected: Vec<_> = reference["vmx_exit_reasons"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (text(r, "name").to_owned(), number(&r["value"])))
        .collect();
    let ours: Vec<_> = x86_arch::ExitReason::ALL
        .iter()
        .map(|r| (r.name().unwrap().to_owned(), r.0 as u64))
        .collect();
    assert_eq!(ours, expected);
}
