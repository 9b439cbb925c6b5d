//! `wattle` as scripts meet it: exit codes, standard output and standard error, pipes. The agent is a thread that
//! says prepared lines.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

const WHOAMI: &str = r#"{"kind":"whoami","data":{"node":{"id":"0000000000000001","name":"r1"},"network":{"id":"00000000000000aa","name":"lab"},"addresses":["10.77.0.1"],"identity_key":"k","public_key":"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=","caller_uid":0,"caller_role":"admin"}}"#;
const PEERS: &str = r#"{"kind":"peers","data":{"peers":[]}}"#;
const NOT_FOUND: &str = r#"{"kind":"error","data":{"code":"not_found","what":"no node `db-9`","why":"the peer set has none","next":"wattle peers"}}"#;
const FORBIDDEN: &str =
    r#"{"kind":"error","data":{"code":"permission","what":"w","why":"y","next":"n"}}"#;

#[test]
fn json_is_one_object_on_standard_output_and_nothing_else() {
    let output = ask(&["--json", "peers"], &[WHOAMI, PEERS]);
    assert_eq!(
        (output.status.code(), text(&output.stderr)),
        (Some(0), String::new())
    );
    let envelope: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let keys: Vec<_> = envelope.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["data", "generated_at", "node", "schema", "warnings"]);
    assert_eq!(
        (&envelope["schema"], &envelope["node"]),
        (&"wattle.peers/v1".into(), &"r1".into())
    );
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let home = tempfile::tempdir().unwrap();
    let unreachable = wattle(&home.path().join("none"))
        .arg("status")
        .output()
        .unwrap();
    assert_eq!(unreachable.status.code(), Some(3));
    assert!(text(&unreachable.stderr).contains("systemctl start wattled"));
    assert_eq!(
        wattle(home.path())
            .arg("fly")
            .output()
            .unwrap()
            .status
            .code(),
        Some(2)
    );
    assert_eq!(ask(&["path", "db-9"], &[NOT_FOUND]).status.code(), Some(7));
    assert_eq!(ask(&["whoami"], &[FORBIDDEN]).status.code(), Some(4));
    assert_eq!(ask(&["whoami"], &["nonsense"]).status.code(), Some(1));
    let waited = wattle(&home.path().join("none"))
        .args(["status", "--check", "live", "--wait", "0"])
        .output();
    assert_eq!(waited.unwrap().status.code(), Some(6));
}

#[test]
fn errors_go_to_standard_error_as_what_why_next_or_as_json() {
    let plain = ask(&["path", "db-9"], &[NOT_FOUND]);
    assert_eq!(text(&plain.stdout), "");
    let expected = "wattle: no node `db-9`\n  why:  the peer set has none\n  next: wattle peers\n";
    assert_eq!(text(&plain.stderr), expected);
    let json = ask(&["--json", "path", "db-9"], &[WHOAMI, NOT_FOUND]);
    let envelope: serde_json::Value = serde_json::from_slice(&json.stderr).unwrap();
    assert_eq!(
        (&envelope["schema"], &envelope["data"]["code"]),
        (&"wattle.error/v1".into(), &"not_found".into())
    );
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let event = |n: u32| {
        format!(
            r#"{{"kind":"event","data":{{"sequence":{n},"at_unix_ms":1,"event":"e","text":"{}"}}}}"#,
            "x".repeat(1_000)
        )
    };
    let events: Vec<String> = (1..2_000).map(event).collect();
    let (_home, socket) = agent(&[&(events.join("\n") + "\n" + r#"{"kind":"done"}"#)]);
    let mut child = wattle(&socket)
        .arg("events")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 64];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), text(&output.stderr)),
        (Some(0), String::new())
    );
}

#[test]
fn a_pipe_gets_no_colours() {
    let output = ask(&["peers"], &[PEERS]);
    assert!(!text(&output.stdout).contains('\u{1b}'));
    assert!(text(&output.stdout).starts_with("NAME"));
}

#[test]
fn a_network_is_made_from_a_file_and_a_wrong_file_names_its_line() {
    let home = tempfile::tempdir().unwrap();
    let nodes = home.path().join("nodes.toml");
    let make = |content: &str| {
        std::fs::write(&nodes, content).unwrap();
        let mut command = wattle(home.path());
        command
            .args(["network", "create", "--offline"])
            .arg(home.path().join("net"));
        command.arg("--nodes").arg(&nodes).output().unwrap()
    };
    let wrong =
        make("[network]\nname = \"lab\"\n[[node]]\nname = \"r1\"\nendpoint = \"1.2.3.4:1\"\n");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(
        text(&wrong.stderr).contains("nodes.toml:5:1: unknown field `endpoint`"),
        "{}",
        text(&wrong.stderr)
    );
    let right = make("[network]\nname = \"lab\"\n[[node]]\nname = \"r1\"\n");
    assert_eq!(right.status.code(), Some(0), "{}", text(&right.stderr));
    assert!(home.path().join("net/r1/peers.bin").exists());
}

fn ask(arguments: &[&str], answers: &[&str]) -> Output {
    let (_home, socket) = agent(answers);
    wattle(&socket).args(arguments).output().unwrap()
}

fn wattle(socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wattle"));
    command
        .env_remove("WATTLE_SOCKET")
        .arg("--socket")
        .arg(socket);
    command
}

/// Answers each request line of one connection with the next of `answers`.
fn agent(answers: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let answers: Vec<String> = answers.iter().map(|answer| format!("{answer}\n")).collect();
    thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else {
            return;
        };
        let mut requests = BufReader::new(stream.try_clone().unwrap()).lines();
        for answer in answers {
            let asked = requests.next().is_some_and(|line| line.is_ok());
            if !asked || stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    (home, socket)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
