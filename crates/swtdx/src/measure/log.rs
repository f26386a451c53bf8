//! A firmware's event log against what was predicted and what a report says.

use serde::Serialize;
use tdvf::LogEvent;
use tdx_abi::Sha384;

use super::diff::Verdict;
use super::events::{Registers, extend};
use super::hex;

/// An event as it is printed.
#[derive(Serialize)]
pub struct Row {
    pub register: u8,
    pub kind: String,
    pub text: String,
    pub digest: String,
}

impl Row {
    pub fn new(event: &LogEvent<'_>) -> Row {
        Row {
            register: event.register,
            kind: event.kind.to_string(),
            text: event.describe().collect(),
            digest: hex(&event.digest),
        }
    }
}

/// One verdict for each RTMR: the log's events against the predicted ones, where there are any, and what they replay
/// to against the report (MRTD, then the RTMRs), if there is one.
pub fn compare(
    events: &[LogEvent<'_>],
    registers: &Registers,
    reported: Option<&[Sha384; 5]>,
) -> Vec<Verdict> {
    let verdict = |index: u8| {
        let logged: Vec<_> = events.iter().filter(|e| e.register == index).collect();
        let replayed = logged
            .iter()
            .fold([0; 48], |value, event| extend(value, event.digest));
        let mut text = format!("{} event(s) logged", logged.len());
        let mut equal = true;
        if registers.rtmr(index).is_some() {
            match first_difference(&logged, registers, index) {
                None => text += ", as predicted",
                Some(difference) => {
                    equal = false;
                    text += &difference;
                }
            }
        }
        text += &format!(", replayed to {}", hex(&replayed));
        if let Some(reported) = reported {
            match reported[usize::from(index) + 1] {
                value if value == replayed => text += ", as reported",
                value => {
                    equal = false;
                    text += &format!("; the report has {}", hex(&value));
                }
            }
        }
        Verdict {
            register: format!("RTMR{index}"),
            equal,
            text,
        }
    };
    (0..4).map(verdict).collect()
}

/// Where the log leaves the prediction.
fn first_difference(logged: &[&LogEvent<'_>], registers: &Registers, index: u8) -> Option<String> {
    let mut predicted = registers.events.iter().filter(|e| e.register == index);
    for (number, event) in (1..).zip(logged) {
        let told = Row::new(event);
        match predicted.next() {
            Some(expected) if expected.digest == event.digest => {}
            Some(expected) => {
                return Some(format!(
                    "; event {number} is {} {:?}, predicted was {}",
                    told.kind, told.text, expected.name
                ));
            }
            None => {
                return Some(format!(
                    "; event {number} was not predicted: {} {:?}",
                    told.kind, told.text
                ));
            }
        }
    }
    predicted
        .next()
        .map(|missing| format!("; missing is {}", missing.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::events::Event;
    use tdvf::EventType;

    fn logged(register: u8, digest: u8) -> LogEvent<'static> {
        LogEvent {
            register,
            kind: EventType(4),
            digest: [digest; 48],
            data: b"x",
        }
    }

    fn registers(digests: &[u8]) -> Registers {
        let event = |digest: &u8| Event {
            register: 1,
            name: format!("event {digest}"),
            digest: [*digest; 48],
        };
        Registers {
            mrtd: [0; 48],
            events: digests.iter().map(event).collect(),
        }
    }

    #[test]
    fn a_log_is_told_where_it_leaves_the_prediction() {
        let log = [logged(1, 1), logged(0, 9), logged(1, 2)];
        for (predicted, equal, words) in [
            (
                &[1, 2][..],
                true,
                "2 event(s) logged, as predicted, replayed to",
            ),
            (
                &[1, 3],
                false,
                "; event 2 is EV_SEPARATOR \"x\", predicted was event 3",
            ),
            (&[1], false, "; event 2 was not predicted: EV_SEPARATOR"),
            (&[1, 2, 3], false, "; missing is event 3"),
        ] {
            let verdicts = compare(&log, &registers(predicted), None);
            assert_eq!(verdicts[1].equal, equal, "{}", verdicts[1].text);
            assert!(verdicts[1].text.contains(words), "{}", verdicts[1].text);
            assert!(verdicts[0].equal, "RTMR0 is not predicted");
        }
    }

    #[test]
    fn a_replay_is_held_against_the_report() {
        let log = [logged(2, 5)];
        let mut reported = [[0; 48]; 5];
        reported[3] = extend([0; 48], [5; 48]);
        let equal = |reported: &[Sha384; 5]| {
            let verdicts = compare(&log, &registers(&[]), Some(reported));
            verdicts.iter().all(|verdict| verdict.equal)
        };
        assert!(equal(&reported));
        reported[2][0] = 1;
        assert!(!equal(&reported));
    }
}
