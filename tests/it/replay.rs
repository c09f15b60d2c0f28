//! `waybill local --record` and `waybill replay`: what the handler was sent and answered, kept as files, and asked for once more.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::foreign::{self, App, tell};
use crate::support::{Directory, Host, Program, eventually, order, repository, request};

/// Nothing runs but what the test sends.
const QUIET: (&str, &str) = ("SweepSchedule", "0 0 0 1 1 *");

/// The recordings in a folder, by the order of their names.
fn recordings(folder: &Path) -> Vec<Value> {
    files(folder).iter().map(|path| serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Waits until this number of invocations of a function is recorded.
fn recorded(folder: &Path, function: &str, number: usize) -> Vec<Value> {
    eventually(&format!("{number} recordings of {function}"), || {
        let is_whole = |path: &PathBuf| path.extension().is_some_and(|end| end == "json");
        let texts = files(folder).into_iter().filter(is_whole).map(|path| fs::read_to_string(path).unwrap());
        let all: Vec<Value> = texts.map(|text| serde_json::from_str(&text).unwrap()).collect();
        let own: Vec<Value> = all.into_iter().filter(|recording| recording["function"] == function).collect();
        (own.len() >= number).then_some(own)
    })
}

fn stop(host: Host) {
    host.program.signal("INT");
    assert!(host.program.end().0.success());
}

fn replay(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let (status, lines) = Program::waybill(&[&["replay"], arguments].concat(), environment).end();
    (status.code(), lines.join("\n"))
}

/// An order's whole walk, recorded: the folder, and the tracking id.
fn walk(directory: &Directory) -> (PathBuf, String) {
    let folder = directory.path().join("recordings");
    let arguments = ["--record", folder.to_str().unwrap()];
    let host = Host::with(repository(), &directory.path().join("data"), &arguments, &[QUIET]);
    let id = host.submit(&order("R-1"));
    recorded(&folder, "OrderProcessor", 1);
    let url = format!("/api/orders/{id}/status");
    let status = host.get(&url);
    assert_eq!(status.json()["status"], "completed", "{status:?}");
    assert_eq!(request("GET", &host.url(&url), &[("If-None-Match", &status.headers["etag"])], None).status, 304);
    assert_eq!(host.post("/api/orders", &order("R-1")).status, 202);
    recorded(&folder, "OrderIngress", 2);
    stop(host);
    (folder, id)
}

#[test]
fn an_orders_walk_is_recorded_and_the_same_handler_answers_the_same() {
    let directory = Directory::new();
    let (folder, id) = walk(&directory);
    let app = repository().to_str().unwrap();

    let (code, by_id) = replay(&[&id, "--from", folder.to_str().unwrap(), "--app", app], &[]);
    let (short, first) = replay(&[&id[..8], "--from", folder.to_str().unwrap(), "--app", app], &[]);
    let all: Vec<String> = files(&folder).iter().map(|file| file.display().to_string()).collect();
    let mut by_file: Vec<&str> = all.iter().map(String::as_str).collect();
    by_file.extend(["--json", "--app", app]);
    let (named, lines) = replay(&by_file, &[]);

    assert_eq!(code, Some(0), "{by_id}");
    assert_eq!((short, &first), (Some(0), &by_id));
    for function in ["OrderIngress", "OrderProcessor", "OrderStatus"] {
        assert!(by_id.lines().any(|line| line.starts_with(&format!("same       {function}  "))), "{by_id}");
    }
    assert!(by_id.contains("5 invocations: 5 the same, 0 different, 0 without an answer"), "{by_id}");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((named, lines.last().unwrap()), (Some(0), &json!({ "same": 5, "differs": 0, "noAnswer": 0 })));
    let recordings = recordings(&folder);
    assert_eq!(recordings[0]["request"]["path"], "/OrderIngress");
    let envelope: Value = serde_json::from_str(recordings[0]["request"]["body"].as_str().unwrap()).unwrap();
    assert_eq!(envelope["Data"]["req"]["Body"], order("R-1").to_string());
    let moments: Vec<&str> = recordings.iter().flat_map(|one| [&one["began"], &one["ended"]]).map(|one| one.as_str().unwrap()).collect();
    assert!(moments.windows(2).all(|pair| pair[0] < pair[1]), "{moments:?}");
    #[cfg(unix)]
    for (path, mode) in [(folder.clone(), 0o700), (files(&folder)[0].clone(), 0o600)] {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
    }
}

#[test]
fn a_handler_that_answers_differently_is_told_with_the_place_and_both_values() {
    let directory = Directory::new();
    let (folder, _) = walk(&directory);
    let arguments = [folder.to_str().unwrap(), "--app", repository().to_str().unwrap()];

    let (code, text) = replay(&arguments, &[("TAX_RATE", "0.5")]);
    let (_, lines) = replay(&[&arguments[..], &["--json"]].concat(), &[("TAX_RATE", "0.5")]);

    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("same       OrderProcessor"), "{text}");
    assert!(text.contains("  /body/Outputs/res/body/result/tax\n    recorded  \"8.86\"\n    now       \"22.15\""), "{text}");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let status = lines.iter().find(|line| line["function"] == "OrderStatus").unwrap();
    let tax = status["differences"].as_array().unwrap().iter().find(|one| one["pointer"] == "/body/Outputs/res/body/result/tax").unwrap();
    assert_eq!((&status["outcome"], &tax["recorded"], &tax["replayed"]), (&json!("differs"), &json!("8.86"), &json!("22.15")));
}

#[test]
fn secrets_of_callers_do_not_reach_the_files() {
    let directory = Directory::new();
    let folder = directory.path().join("recordings");
    let arguments = ["--record", folder.to_str().unwrap()];
    let host = Host::with(repository(), &directory.path().join("data"), &arguments, &[QUIET]);

    let headers = [
        ("Content-Type", "application/json"),
        ("Authorization", "Bearer s3cret"),
        ("Cookie", "session=s3cret"),
        ("X-Functions-Key", "s3cret"),
        ("X-Ms-Token-Aad-Access-Token", "s3cret"),
    ];
    let accepted = request("POST", &host.url("/api/orders?code=s3cret"), &headers, Some(order("R-2").to_string().as_bytes()));
    recorded(&folder, "OrderProcessor", 1);
    stop(host);

    assert_eq!(accepted.status, 202, "{accepted:?}");
    let texts: String = files(&folder).iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    assert!(!texts.contains("s3cret") && texts.matches("MASKED").count() > 5, "{texts}");
    assert!(texts.contains("R-2"));
}

#[test]
fn a_handler_in_another_language_is_recorded_and_replayed() {
    let Some(app) = App::new() else { return };
    let folder = app.root().join("recordings");
    app.change("host.json", |host| host["customHandler"]["enableForwardingHttpRequest"] = true.into());
    let host = app.start(&["--record", folder.to_str().unwrap()], &[]);
    let outputs = json!({ "Outputs": { "relayed": ["one"], "res": { "body": "hi" } }, "Logs": ["took 3 ms"] });
    let exact = json!({ "answer": { "status": 200, "contentType": "application/json", "body": outputs.to_string() } });
    assert_eq!(tell(&host, &exact).body, "hi");
    app.sunk_until("relayed one");
    let forwarded = request("POST", &host.url("/api/hello?code=s3cret"), &[("Cookie", "a=s3cret")], Some(b"\xff\x00"));
    assert_eq!(forwarded.status, 500, "its handler reads text only");
    tell(&host, &json!({ "exit": 3 }));
    eventually("the handler is ready again", || (foreign::logged(&host, "the handler is ready") == 2).then_some(()));
    recorded(&folder, "Case", 2);
    recorded(&folder, "Sink", 1);
    stop(host);
    let root = app.root();
    let arguments = [folder.to_str().unwrap(), "--app", root.to_str().unwrap()];

    let (code, same) = replay(&arguments, &[]);
    let handler = fs::read_to_string(app.root().join("handler.py")).unwrap();
    app.write("handler.py", &handler.replace("[f\"relayed {text}\"]", "[f\"passed {text}\"]").replace("os._exit(order[\"exit\"])", "pass"));
    let (changed, differs) = replay(&arguments, &[]);

    assert_eq!(code, Some(0), "{same}");
    let lost: Vec<Value> = recordings(&folder).into_iter().filter(|one| one["answer"].is_null()).collect();
    assert_eq!(lost.len(), 2, "{lost:?}");
    assert!(lost[1]["failure"].as_str().unwrap().contains("the connection to the handler broke"), "{lost:?}");
    let passed_on = recorded(&folder, "Hello", 1).remove(0);
    assert_eq!((&passed_on["forwarded"], &passed_on["request"]["bodyBase64"]), (&json!(true), &json!("/wA=")));
    assert_eq!(passed_on["request"]["path"], "/api/hello?code=MASKED");
    assert!(!passed_on["request"].to_string().contains("s3cret"), "{passed_on}");
    assert_eq!(changed, Some(1), "{differs}");
    assert!(differs.contains("/body/Outputs/orderMessage/0\n    recorded  \"relayed one\"\n    now       \"passed one\""), "{differs}");
    assert!(differs.contains("/status\n    recorded  \"no answer: the connection to the handler broke"), "{differs}");
    assert!(!differs.contains("s3cret"), "{differs}");
}

#[test]
fn what_ran_at_the_same_time_runs_at_the_same_time_again() {
    let Some(app) = App::new() else { return };
    let folder = app.root().join("recordings");
    let host = app.start(&["--record", folder.to_str().unwrap()], &[]);
    let answer = json!({ "status": 200, "contentType": "application/json", "body": "{}" });
    let (slow, fast) = (json!({ "until": app.gate(), "answer": answer }), json!({ "answer": answer }));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| tell(&host, &slow));
        app.recorded("begin", "Case", 1);
        tell(&host, &fast);
        app.open();
        waits.join().unwrap();
    });
    recorded(&folder, "Case", 2);
    stop(host);
    fs::remove_file(app.gate()).unwrap();

    let root = app.root();
    let mut program = Program::waybill(&["replay", folder.to_str().unwrap(), "--app", root.to_str().unwrap(), "--json"], &[]);
    let first = program.line("\"same\"");
    app.open();
    let (status, lines) = program.end();

    assert!(status.success(), "{lines:?}");
    let invocations = recordings(&folder);
    assert!(first.contains(invocations[1]["invocation"].as_str().unwrap()) && first.contains("\"beside\":\"Case\""), "{first}");
}

#[test]
fn a_replay_that_is_stopped_ends_its_handler() {
    let Some(app) = App::new() else { return };
    let folder = app.root().join("recordings");
    app.open();
    let host = app.start(&["--record", folder.to_str().unwrap()], &[]);
    tell(&host, &json!({ "until": app.gate() }));
    recorded(&folder, "Case", 1);
    stop(host);
    fs::remove_file(app.gate()).unwrap();
    let record = app.root().join("replayed");

    let (root, settings) = (app.root(), [("RECORD", record.to_str().unwrap())]);
    let program = Program::waybill(&["replay", folder.to_str().unwrap(), "--app", root.to_str().unwrap()], &settings);
    let begun = eventually("the handler got it", || fs::read_to_string(&record).ok().filter(|text| text.ends_with('\n')));
    let process = serde_json::from_str::<Value>(begun.lines().next().unwrap()).unwrap()["process"].as_u64().unwrap();
    program.signal("INT");
    let (status, lines) = program.end_within(Duration::from_secs(20));

    assert_eq!(status.code(), Some(130), "{lines:?}");
    #[cfg(target_os = "linux")]
    assert!(!Path::new(&format!("/proc/{process}")).exists(), "{lines:?}");
    #[cfg(not(target_os = "linux"))]
    let _ = process;
}

#[test]
fn wrong_input_is_told_and_a_half_written_file_spoils_nothing() {
    let directory = Directory::new();
    let (folder, id) = walk(&directory);
    let (app, from) = (repository().to_str().unwrap(), folder.to_str().unwrap());
    let first = fs::read_to_string(&files(&folder)[0]).unwrap();
    fs::write(folder.join(".half.tmp"), &first[..first.len() / 2]).unwrap();
    fs::write(folder.join("notes.txt"), "mine").unwrap();
    let newer = directory.write("newer.json", &first.replacen("\"format\": 1", "\"format\": 2", 1));
    let half = directory.write("half.json", &first[..first.len() / 2]);
    let other = directory.write("other.json", "{}");
    let elsewhere = directory.write("elsewhere.json", &first.replacen("\"function\": \"OrderIngress\"", "\"function\": \"Pay\"", 1));
    let empty = directory.path().join("empty");
    fs::create_dir(&empty).unwrap();

    let told = |what: &Path| replay(&[what.to_str().unwrap(), "--app", app], &[]);

    assert_eq!(told(&folder).0, Some(0));
    for ((code, text), part) in [
        (told(&newer), "newer.json is of format 2; this program reads format 1"),
        (told(&half), "half.json is no recording"),
        (told(&other), "other.json is no recording: it has no format"),
        (told(&elsewhere), "has no function Pay"),
        (told(&empty), "`waybill local --record DIR` makes them"),
        (told(&directory.path().join("gone.json")), "there is no"),
        (replay(&["00000000", "--from", from, "--app", app], &[]), "no recording in"),
        (replay(&[&id, "--from", "nowhere", "--app", app], &[]), "name it with --from DIR"),
        (replay(&[&id, "--from", from, "--app", app], &[("FULFILLMENT_URL", "https://work.example.com/")]), "pass --backend URL"),
        (replay(&[&id, "--from", from, "--app", app, "--backend", "http://127.0.0.1@example.com/"], &[]), "use a URL of this machine"),
    ] {
        assert!(code == Some(2) && text.contains(part), "{part}: {code:?}: {text}");
    }
}

#[test]
fn a_folder_that_cannot_be_written_stops_the_start_and_one_with_recordings_goes_on() {
    let directory = Directory::new();
    let (folder, _) = walk(&directory);
    let before = files(&folder);
    let file = directory.write("file", "");

    let (refused, lines) =
        Host::begin(repository(), &directory.path().join("other"), &["--record", file.to_str().unwrap()], &[QUIET]).end();
    let host = Host::with(repository(), &directory.path().join("data"), &["--record", folder.to_str().unwrap()], &[QUIET]);
    host.submit(&order("R-9"));
    recorded(&folder, "OrderProcessor", 2);
    stop(host);

    assert_eq!(refused.code(), Some(1));
    assert!(lines.iter().any(|line| line.contains("cannot record into") && line.contains("pass another --record")), "{lines:?}");
    let now = files(&folder);
    assert_eq!((&now[..before.len()], now.len()), (&before[..], before.len() + 2));
}
