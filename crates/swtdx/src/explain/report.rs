//! TDREPORT and quote files.

use tdx_abi::{Attributes, ReportType, TdReport, TeeTcbInfo, Xfam};

use super::reading::Reading;

/// Bytes of a quote's header.
const QUOTE_HEADER: usize = 48;
/// TEE type of a TD in a quote's header.
const TEE_TDX: u32 = 0x81;

/// Reads a file: a TDREPORT, or a quote of version 4 or 5 (Intel TDX DCAP quote format).
pub fn read(bytes: &[u8]) -> Result<Vec<Reading>, String> {
    if let Some(report) = bytes
        .get(..TdReport::SIZE)
        .filter(|_| bytes.len() == TdReport::SIZE)
    {
        let report = TdReport::from_bytes(report.try_into().expect("1024 bytes"));
        if report.report_mac_struct.report_type.kind() == ReportType::TDX {
            return Ok(vec![read_report(&report)]);
        }
        return Err(format!(
            "1024 bytes, but report type {:#x} at offset 0 is not a TD's (0x81)",
            report.report_mac_struct.report_type.0
        ));
    }
    match bytes
        .first_chunk::<8>()
        .map(|head| (u16::from_le_bytes([head[0], head[1]]), u32_at(head, 4)))
    {
        Some((version @ (4 | 5), TEE_TDX)) => {
            read_quote(version, bytes).map(|reading| vec![reading])
        }
        Some((version @ (3..=5), tee)) => Err(format!(
            "a quote of version {version} for TEE type {tee:#x}, not of a TD (0x81)"
        )),
        _ => Err(format!(
            "{} bytes are neither a TDREPORT (1024 bytes) nor a TD quote",
            bytes.len()
        )),
    }
}

fn read_report(report: &TdReport) -> Reading {
    let (mac, tcb, td) = (
        &report.report_mac_struct,
        &report.tee_tcb_info,
        &report.td_info,
    );
    let mut reading = Reading::new(
        "TDREPORT",
        format!(
            "type {:#x}, subtype {}, version {}",
            mac.report_type.kind(),
            mac.report_type.subtype(),
            mac.report_type.version()
        ),
    )
    .with("CPUSVN", hex(&mac.cpusvn))
    .with("REPORTDATA", hex(&mac.report_data))
    .with("TEE_TCB_INFO_HASH", hex(&mac.tee_tcb_info_hash))
    .with("TEE_INFO_HASH", hex(&mac.tee_info_hash))
    .with("MAC", hex(&mac.mac));
    reading = tcb_facts(
        reading,
        &tcb.tee_tcb_svn,
        &tcb.mr_seam,
        &tcb.mr_signer_seam,
        tcb.attributes,
    );
    reading = reading.with("TCB valid", format!("{:#x}", tcb.valid));
    let svn2 = &tcb.to_bytes()[TeeTcbInfo::TEE_TCB_SVN2_OFFSET..][..16];
    reading = reading.with_if(svn2.iter().any(|b| *b != 0), "TEE_TCB_SVN2", hex(svn2));
    let registers = [td.mr_td, td.mr_config_id, td.mr_owner, td.mr_owner_config];
    reading = td_facts(reading, td.attributes, td.xfam, &registers, &td.rtmr);
    reading.with("SERVTD_HASH", hex(&td.servtd_hash))
}

/// MRTD and RTMR 0 to 3 of a TDREPORT or quote file.
pub fn measurements(bytes: &[u8]) -> Result<[[u8; 48]; 5], String> {
    // The checks, and the words when one fails, are those of reading the whole file.
    read(bytes)?;
    let at =
        |offset: usize| -> [u8; 48] { bytes[offset..offset + 48].try_into().expect("48 bytes") };
    if bytes.len() == TdReport::SIZE {
        let report = TdReport::from_bytes(bytes.try_into().expect("1024 bytes"));
        let [r0, r1, r2, r3] = report.td_info.rtmr;
        return Ok([report.td_info.mr_td, r0, r1, r2, r3]);
    }
    let body = quote_body(bytes[0].into(), bytes)?.at;
    Ok([
        at(body + 136),
        at(body + 328),
        at(body + 376),
        at(body + 424),
        at(body + 472),
    ])
}

/// Where a quote keeps its TD report.
struct QuoteBody {
    kind: u16,
    at: usize,
    size: usize,
}

fn cut_short(bytes: &[u8], at: usize) -> String {
    format!(
        "a quote cut short: {} bytes, and something should be at offset {at:#x}",
        bytes.len()
    )
}

fn quote_body(version: u16, bytes: &[u8]) -> Result<QuoteBody, String> {
    let (mut at, mut kind) = (QUOTE_HEADER, 2);
    if version == 5 {
        let head = bytes
            .get(QUOTE_HEADER..QUOTE_HEADER + 6)
            .ok_or_else(|| cut_short(bytes, QUOTE_HEADER))?;
        kind = u16::from_le_bytes([head[0], head[1]]);
        at += 6;
    }
    let size = match kind {
        2 => 584,
        3 => 648,
        other => {
            return Err(format!(
                "a quote with a body of type {other} at offset {QUOTE_HEADER:#x}; 2 and 3 are of TDs"
            ));
        }
    };
    match at + size <= bytes.len() {
        true => Ok(QuoteBody { kind, at, size }),
        false => Err(cut_short(bytes, at + size)),
    }
}

fn read_quote(version: u16, bytes: &[u8]) -> Result<Reading, String> {
    let QuoteBody {
        kind: body_kind,
        at: body_at,
        size: body_size,
    } = quote_body(version, bytes)?;
    let body = &bytes[body_at..body_at + body_size];
    let digest = |at: usize| -> [u8; 48] { body[at..at + 48].try_into().expect("48 bytes") };
    let word = |at: usize| u64::from(u32_at(body, at)) | u64::from(u32_at(body, at + 4)) << 32;

    let key = match u16::from_le_bytes([bytes[2], bytes[3]]) {
        2 => "ECDSA-256 with P-256".to_owned(),
        3 => "ECDSA-384 with P-384".to_owned(),
        other => format!("unknown key type {other}"),
    };
    let mut reading = Reading::new(
        "TD quote",
        format!("version {version}, {key}, {} bytes", bytes.len()),
    )
    .with("QE vendor", hex(&bytes[12..28]))
    .with("REPORTDATA", hex(&body[520..584]));
    reading = tcb_facts(reading, &body[..16], &digest(16), &digest(64), word(112));
    let registers = [digest(136), digest(184), digest(232), digest(280)];
    let rtmrs = [digest(328), digest(376), digest(424), digest(472)];
    reading = td_facts(
        reading,
        Attributes(word(120)),
        Xfam(word(128)),
        &registers,
        &rtmrs,
    );
    if body_kind == 3 {
        reading = reading
            .with("TEE_TCB_SVN2", hex(&body[584..600]))
            .with("MRSERVICETD", hex(&body[600..648]));
    }
    let signature_at = body_at + body_size;
    let signature = bytes
        .get(signature_at..signature_at + 4)
        .map(|b| u32_at(b, 0) as usize)
        .ok_or_else(|| cut_short(bytes, signature_at))?;
    let there = bytes.len() - signature_at - 4;
    let text = match there >= signature {
        true => format!(
            "{signature} bytes at offset {:#x}, not verified",
            signature_at + 4
        ),
        false => format!("cut short: {there} of {signature} bytes"),
    };
    Ok(reading.with("signature", text))
}

fn tcb_facts(
    reading: Reading,
    svn: &[u8],
    seam: &[u8; 48],
    signer: &[u8; 48],
    attributes: u64,
) -> Reading {
    let by_intel = if signer.iter().all(|b| *b == 0) {
        " (signed by Intel)"
    } else {
        ""
    };
    reading
        .with(
            "TEE_TCB_SVN",
            format!(
                "{} (module SVN {}, major version {})",
                hex(svn),
                svn[0],
                svn[1]
            ),
        )
        .with("MRSEAM", hex(seam))
        .with("MRSIGNERSEAM", format!("{}{by_intel}", hex(signer)))
        .with_if(
            attributes != 0,
            "SEAM attributes",
            format!("{attributes:#x}"),
        )
}

fn td_facts(
    reading: Reading,
    attributes: Attributes,
    xfam: Xfam,
    registers: &[[u8; 48]; 4],
    rtmrs: &[[u8; 48]; 4],
) -> Reading {
    let debug = if attributes.contains(Attributes::DEBUG) {
        "; DEBUG: do not trust it"
    } else {
        ""
    };
    let mut reading = reading
        .with(
            "ATTRIBUTES",
            format!("{:#x}: {attributes}{debug}", attributes.0),
        )
        .with("XFAM", format!("{:#x}: {xfam}", xfam.0));
    for (name, value) in ["MRTD", "MRCONFIGID", "MROWNER", "MROWNERCONFIG"]
        .into_iter()
        .zip(registers)
    {
        reading = reading.with(name, hex(value));
    }
    for (name, value) in ["RTMR0", "RTMR1", "RTMR2", "RTMR3"].into_iter().zip(rtmrs) {
        reading = reading.with(name, hex(value));
    }
    reading
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

/// Lower-case hexadecimal; all zeros are written as such.
fn hex(bytes: &[u8]) -> String {
    match bytes.iter().all(|b| *b == 0) {
        true => format!("0 ({} zero bytes)", bytes.len()),
        false => bytes.iter().map(|b| format!("{b:02x}")).collect(),
    }
}
