//! Clients by hand: many one after the other, two at once, and such as vanish in the middle.

use super::harness::{Client, Server, folder};

/// Reads `?` and the first registers: a client that works.
fn greet(client: &mut Client) {
    let features = client.ask("qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+");
    assert!(
        features.is_some_and(|f| f.contains("PacketSize=")),
        "it speaks the protocol"
    );
    let stop = client.ask("?").expect("a stop");
    assert!(stop.starts_with('T') || stop.starts_with('S'), "{stop}");
}

#[test]
fn clients_come_and_go_and_the_td_ends_well() {
    let folder = folder("many");
    let server = Server::start(&folder, ["--gdb-wait", "--gdb-on-drop", "stop"]);
    for round in 0..5 {
        let mut client = Client::connect(&server.socket);
        greet(&mut client);
        // It leaves without a word: the TD stands still for the next one.
        drop(client);
        server.wait_for_words("the TD waits for the next one");
        let _ = round;
    }
    let mut client = Client::connect(&server.socket);
    greet(&mut client);
    assert_eq!(client.ask("D;1").as_deref(), Some("OK"));
    let ended = server.end();
    assert!(ended.status.success(), "{}", ended.words);
    assert!(ended.console.contains("guest done, powering off"));
}

#[test]
fn a_dropped_client_leaves_the_td_running_when_told_so() {
    let folder = folder("dropped");
    let server = Server::start(&folder, ["--gdb-wait", "--gdb-on-drop", "run"]);
    let mut client = Client::connect(&server.socket);
    greet(&mut client);
    drop(client);
    let ended = server.end();
    assert!(ended.words.contains("the TD runs on"), "{}", ended.words);
    assert!(ended.console.contains("guest done, powering off"));
    assert!(ended.status.success(), "{}", ended.words);
}

#[test]
fn a_second_client_is_turned_away_and_the_first_goes_on() {
    let folder = folder("second");
    let server = Server::start(&folder, ["--gdb-wait"]);
    let mut first = Client::connect(&server.socket);
    greet(&mut first);
    let mut second = Client::connect(&server.socket);
    let refusal = second.ask("qSupported");
    assert_eq!(refusal.as_deref(), Some("E.this TD has a debugger already"));
    assert_eq!(second.receive(), None, "it is hung up on");
    greet(&mut first);
    assert_eq!(first.ask("D;1").as_deref(), Some("OK"));
    let ended = server.end();
    assert!(ended.words.contains("a second client was turned away"));
    assert!(ended.status.success(), "{}", ended.words);
}

#[test]
fn garbage_half_packets_and_huge_ones_leave_the_td_unharmed() {
    let folder = folder("garbage");
    let server = Server::start(&folder, ["--gdb-wait", "--gdb-on-drop", "stop"]);
    let huge = format!("$X0,fffff:{}#00", "A".repeat(1 << 20));
    let inputs: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"$qSuppo",
        b"$#00",
        b"$m0,ffffffffffffffff#16",
        b"$vCont;s:p1.7777777#00",
        huge.as_bytes(),
        &[0xFF; 5000],
        b"$Z0,ffffffffffffffff,1#00$g#67$G00#a7$P9999=00#5c",
    ];
    for input in inputs {
        let mut client = Client::connect(&server.socket);
        client.raw(input);
        drop(client);
    }
    let mut client = Client::connect(&server.socket);
    greet(&mut client);
    assert_eq!(client.ask("D;1").as_deref(), Some("OK"));
    let ended = server.end();
    assert!(ended.status.success(), "{}", ended.words);
    assert!(ended.console.contains("guest done, powering off"));
    assert!(ended.words.contains("0 lost; 0 key IDs lost"));
}

/// The answer to a `monitor` command.
fn monitor(client: &mut Client, command: &str) -> String {
    let hex: String = command.bytes().map(|byte| format!("{byte:02x}")).collect();
    client.send(&format!("qRcmd,{hex}"));
    let mut text = Vec::new();
    loop {
        let packet = client.receive().expect("the server is there");
        match packet.strip_prefix('O') {
            Some(hex) if packet != "OK" => {
                for pair in hex.as_bytes().chunks(2) {
                    let digits = std::str::from_utf8(pair).expect("ASCII");
                    text.push(u8::from_str_radix(digits, 16).expect("hexadecimal"));
                }
            }
            _ => break,
        }
    }
    String::from_utf8(text).expect("UTF-8")
}

#[test]
fn monitor_commands_tell_what_a_debugger_of_tds_wants_to_know() {
    let folder = folder("monitor");
    let server = Server::start(&folder, ["--gdb-wait"]);
    let mut client = Client::connect(&server.socket);
    greet(&mut client);
    let td = monitor(&mut client, "td");
    let (fields, mrtd) = td.split_once("MRTD").expect("a measurement");
    assert_eq!(
        fields,
        "LIFECYCLE_STATE  0x1\nOP_STATE         0x2\nFATAL            0x0\nHKID             0x21\n\
         NUM_VCPUS        0x1\nATTRIBUTES       0x10000001\nXFAM             0x3\nGPAW             0x0\n"
    );
    let ve = monitor(&mut client, "ve");
    assert_eq!(
        ve,
        "valid            0x0\nexit reason      0x0\nqualification    0x0\nlinear address   0x0\n\
         guest physical   0x0\n"
    );
    let sept = monitor(&mut client, "sept 0x820000");
    assert_eq!(sept.lines().count(), 4, "{sept}");
    assert!(
        sept.contains("level 0 0x000000820000: ") && sept.contains("R|W|X"),
        "{sept}"
    );
    let refused = monitor(&mut client, "sept 0x40000000");
    assert!(
        refused.contains("level 0 0x000040000000: ") && refused.contains("EPT_WALK_FAILED"),
        "{refused}"
    );
    for (command, answer) in [
        ("field ATTRIBUTES", "0x10000001\n"),
        ("field guest rip", "0xfffffff0\n"),
        ("field 0x002400030000681e", "0xfffffff0\n"),
        ("field nothing", "no metadata field is named \"nothing\"\n"),
        ("sept x", "\"x\" is no address\n"),
        ("exits", "no exit is recorded\n"),
        ("exits x", "\"x\" is no number\n"),
        ("explain nonsense", "nonsense\n  unknown\n"),
    ] {
        assert_eq!(monitor(&mut client, command), answer, "{command}");
    }
    let leaf = monitor(&mut client, "explain leaf:16");
    assert!(leaf.contains("TDH.MR.EXTEND"), "{leaf}");
    let busy = monitor(&mut client, "explain 0x8000020000000092");
    assert!(
        busy.contains("TDX_OPERAND_BUSY(SEPT_TREE)") && busy.contains("advice   Call again"),
        "{busy}"
    );
    assert!(
        monitor(&mut client, "nonsense").starts_with("unknown command \"nonsense\"\nmonitor td ")
    );
    assert_eq!(client.ask("D;1").as_deref(), Some("OK"));
    let ended = server.end();
    assert!(ended.words.contains(mrtd.trim()), "{mrtd}\n{}", ended.words);
}
