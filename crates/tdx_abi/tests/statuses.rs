//! Every completion status and operand id against the reference table, and how a status reads.

mod reference;

use reference::{number, table, text};
use tdx_abi::{DetailsKind, OperandId, STATUSES, Status, StatusKind};

#[test]
fn every_status_has_the_reference_s_value_class_and_kind_and_a_row() {
    let Some(reference) = table("status-codes.json") else {
        return;
    };
    let expected = reference["statuses"].as_array().unwrap();
    let of_1_5_01 = |status: &&Status| !Status::NEWER.contains(status);
    assert_eq!(expected.len(), Status::ALL.iter().filter(of_1_5_01).count());
    assert_eq!(
        STATUSES.iter().map(|row| row.status).collect::<Vec<_>>(),
        Status::ALL
    );
    for (status, expected) in Status::ALL.iter().filter(of_1_5_01).zip(expected) {
        assert_eq!(
            status.to_string().split('(').next(),
            Some(text(expected, "name"))
        );
        assert_eq!(status.raw(), number(&expected["value"]), "{status}");
        assert_eq!(
            status.class() as u64,
            number(&expected["class_code"]),
            "{status}"
        );
        assert_eq!(
            status.class_name(),
            Some(text(expected, "class")),
            "{status}"
        );
        assert_eq!(
            status.details_l1() as u64,
            number(&expected["details_l1"]),
            "{status}"
        );
        let kind = match text(expected, "kind") {
            "success" => StatusKind::Success,
            "informational" => StatusKind::Informational,
            "error_recoverable" => StatusKind::RecoverableError,
            "error_non_recoverable" => StatusKind::Error,
            "non_recoverable_exit" => StatusKind::NonRecoverableExit,
            other => panic!("{status}: {other}"),
        };
        assert_eq!(status.kind(), kind, "{status}");
        // Where the reference saw operand ids or MSRs in the low half, the row says so.
        let seen = &expected["low32_contents_seen"];
        let details = status.row().unwrap().details;
        assert!(
            seen.get("operand_ids").is_none()
                || matches!(details, DetailsKind::Operand | DetailsKind::CpuidLeaf),
            "{status}"
        );
        assert_eq!(
            seen.get("msrs").is_some(),
            details == DetailsKind::Msr,
            "{status}"
        );
    }
}

#[test]
fn every_operand_id_has_the_reference_s_name_and_number() {
    let Some(reference) = table("status-codes.json") else {
        return;
    };
    let expected = reference["operand_ids"].as_array().unwrap();
    assert_eq!(expected.len(), OperandId::ALL.len());
    for (operand, expected) in OperandId::ALL.iter().zip(expected) {
        let name = text(expected, "name").trim_start_matches("OPERAND_ID_");
        assert_eq!(
            (operand.name(), operand.0 as u64),
            (Some(name), number(&expected["value"]))
        );
    }
}

#[test]
fn a_status_reads_like_the_manual() {
    let reads = |raw: u64| Status(raw).to_string();
    assert_eq!(reads(0x8000_0200_0000_0092), "TDX_OPERAND_BUSY(SEPT_TREE)");
    assert_eq!(reads(0xC000_0100_0000_0000), "TDX_OPERAND_INVALID(RAX)");
    assert_eq!(reads(12), "TDX_SUCCESS(HLT_INSTRUCTION)");
    assert_eq!(reads(0), "TDX_SUCCESS");
    assert_eq!(
        reads(0xC000_0921_0000_003A),
        "TDX_INCORRECT_MSR_VALUE(MSR 0x3a)"
    );
    assert_eq!(
        reads(0xE000_0100_0000_0001),
        "TDX_OPERAND_INVALID+FATAL(RCX)"
    );
    assert_eq!(reads(0xC000_01FF_0000_0001), "0xc00001ff00000001");
}

#[test]
fn every_meaning_is_a_sentence_of_its_own() {
    for (at, row) in STATUSES.iter().enumerate() {
        assert!(
            row.meaning.ends_with('.') && row.meaning.len() > 15,
            "{}",
            row.status
        );
        assert!(
            STATUSES[..at]
                .iter()
                .all(|other| other.meaning != row.meaning),
            "{}",
            row.status
        );
    }
}
