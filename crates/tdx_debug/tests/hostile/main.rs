//! What a client may send: anything. The TD behind the server is unharmed, whatever it was.

mod talk;

use proptest::prelude::*;
use talk::talk;

/// A packet with its checksum, right or wrong.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let body = prop_oneof![
        "[gGpPmMXzZvqQHTDk?sc][0-9a-f,;:.+-]{0,40}",
        "Z[0-5],[0-9a-f]{1,16},[0-9a-f]{1,2}",
        "[mMX][0-9a-f]{1,16},[0-9a-f]{1,16}:?[0-9a-f]{0,20}",
        "vCont;[csrt](:p[0-9a-f-]{1,3}\\.[0-9a-f-]{1,4})?(;c)?",
        "qRcmd,[0-9a-f]{0,60}",
        "qXfer:features:read:target.xml:[0-9a-f]{1,8},[0-9a-f]{1,8}",
    ];
    (body, any::<bool>(), any::<u8>()).prop_map(|(body, right, wrong)| {
        let sum = body.bytes().fold(0, u8::wrapping_add);
        let sum = if right { sum } else { wrong };
        format!("${body}#{sum:02x}").into_bytes()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn packets_of_every_kind(packets in proptest::collection::vec(packet(), 1..12)) {
        talk(&packets.concat());
    }

    #[test]
    fn bytes_of_every_kind(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        talk(&bytes);
    }
}

#[test]
fn half_packets_and_huge_ones() {
    talk(b"$qSupported:multi");
    talk(b"$m0,ffffffffffffffff#16$mffffffffffffffff,ffffffff#00");
    talk(format!("$X0,fffff:{}#00", "A".repeat(100_000)).as_bytes());
    talk(b"$vCont;c#a8\x03\x03\x03$?#3f");
    talk(b"$vCont;s:p1.1#23$vCont;s:p1.1#23$D;1#b0");
}
