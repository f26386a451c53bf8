//! Whether registers are as expected and, if not, what would explain the difference.

use serde::Serialize;
use tdvf::{Image, Order};
use tdx_abi::Sha384;

use super::events::Registers;
use super::{Loading, hex};
use crate::cli::Failure;

/// What was found about one register.
#[derive(Serialize)]
pub struct Verdict {
    pub register: String,
    pub equal: bool,
    pub text: String,
}

const NAMES: [&str; 5] = ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"];

/// Checks one `--expect`: digits that a register begins with.
pub fn expect(text: &str, registers: &Registers) -> Result<Verdict, Failure> {
    let (name, digits) = text.split_once('=').unwrap_or(("mrtd", text));
    let name = name.to_ascii_lowercase();
    let digits = digits.to_ascii_lowercase();
    let Some(index) = NAMES.iter().position(|known| *known == name) else {
        return Err(Failure::input(format_args!(
            "--expect {text}: {name} is no register; known are {}",
            NAMES.join(", ")
        )));
    };
    let hexadecimal = digits.chars().all(|c| c.is_ascii_hexdigit());
    if !hexadecimal || !(8..=96).contains(&digits.len()) {
        return Err(Failure::input(format_args!(
            "--expect {text}: takes 8 to 96 hexadecimal digits"
        )));
    }
    let value = match index {
        0 => Some(registers.mrtd),
        index => registers.rtmr(index as u8 - 1),
    };
    let Some(value) = value.map(|value| hex(&value)) else {
        return Err(Failure::input(format_args!(
            "--expect {text}: {name} is not predicted (give --kernel for RTMR 1 and 2)"
        )));
    };
    let equal = value.starts_with(&digits);
    let text = if equal {
        "as expected".to_owned()
    } else {
        format!("expected {digits}, measured {value}")
    };
    Ok(Verdict {
        register: name.to_ascii_uppercase(),
        equal,
        text,
    })
}

/// Compares a report's registers with those measured, and looks for what would explain each difference.
pub fn compare(
    reported: &[Sha384; 5],
    registers: &Registers,
    loading: &Loading<'_>,
    order: Order,
) -> Vec<Verdict> {
    let verdict = |index: usize, equal, text| Verdict {
        register: NAMES[index].to_ascii_uppercase(),
        equal,
        text,
    };
    let mut verdicts = vec![match reported[0] == registers.mrtd {
        true => verdict(0, true, "as reported".to_owned()),
        false => {
            let why = explain_mrtd(&reported[0], loading, order)
                .unwrap_or_else(|| "neither another order, nor a section left out, nor one measured otherwise explains it: another image".to_owned());
            verdict(
                0,
                false,
                format!("the report has {}; {why}", hex(&reported[0])),
            )
        }
    }];
    for index in 0..4 {
        let value = reported[index + 1];
        let place = registers
            .values(index as u8)
            .iter()
            .position(|v| *v == value);
        let events: Vec<&str> = registers
            .events
            .iter()
            .filter(|e| usize::from(e.register) == index)
            .map(|e| e.name.as_str())
            .collect();
        verdicts.push(match (registers.rtmr(index as u8), place) {
            (None, _) => verdict(
                index + 1,
                true,
                format!("not predicted; the report has {}", hex(&value)),
            ),
            (Some(ours), _) if ours == value => verdict(index + 1, true, "as reported".to_owned()),
            (Some(_), Some(0)) => verdict(
                index + 1,
                false,
                "the report has zero: nothing was measured".to_owned(),
            ),
            (Some(_), Some(count)) => {
                let (last, next) = (events[count - 1], events[count]);
                verdict(
                    index + 1,
                    false,
                    format!("the report stops after event {count} ({last}); missing is {next}"),
                )
            }
            (Some(_), None) if value == registers.without_separator(index as u8) => verdict(
                index + 1,
                false,
                "the report is of firmware that measures no separator here (--edk2 before202411)"
                    .to_owned(),
            ),
            (Some(_), None) => {
                let first = events
                    .first()
                    .map_or("no event was expected".to_owned(), |e| {
                        format!("already the first event ({e}) may differ")
                    });
                verdict(
                    index + 1,
                    false,
                    format!("the report has {}; {first}", hex(&value)),
                )
            }
        });
    }
    verdicts
}

/// Finds a change of the plan that gives the reported MRTD: another order, a section left out, a section whose
/// contents are measured although they should not be, or the other way round.
fn explain_mrtd(reported: &Sha384, loading: &Loading<'_>, order: Order) -> Option<String> {
    let image = &loading.image;
    for (tried, name) in [
        (Order::PageByPage, "page by page"),
        (Order::TwoPasses, "in two passes"),
    ] {
        let in_order = if tried == order {
            String::new()
        } else {
            format!(", {name}")
        };
        if tried != order && loading.measure(tried, None) == *reported {
            return Some(format!("it is this image measured {name}"));
        }
        for section in image.sections() {
            let described = format!(
                "section {} ({} at {:#x})",
                section.index, section.kind, section.memory_address
            );
            if loading.measure(tried, Some(section.index)) == *reported {
                return Some(format!("it is this image without {described}{in_order}"));
            }
            // The same image with the section's bit 0 turned.
            let mut bytes = image.bytes().to_vec();
            bytes[image.descriptor_offset() + 16 + 32 * section.index as usize + 28] ^= 1;
            let turned = Image::parse(&bytes).map(|image| Loading {
                image,
                pages: loading.pages.clone(),
            });
            if turned.is_ok_and(|turned| turned.measure(tried, None) == *reported) {
                let how = if section.attributes.extended() {
                    "not measured"
                } else {
                    "measured too"
                };
                return Some(format!(
                    "it is this image with the contents of {described} {how}{in_order}"
                ));
            }
        }
    }
    None
}
