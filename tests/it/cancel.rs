//! `OrderCancel`: an order that its owner does not want any more.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;

use serde_json::json;

use crate::emulator::Emulator;
use crate::support::{Answer, Directory, Handler, Host, events, eventually, hopeless, order, request, submit};

const LEASE: [(&str, &str); 1] = [("LEASE", "1s")];

fn is_cancelled(answer: &Answer) {
    assert_eq!((answer.status, &answer.body["status"], answer.message.as_ref()), (200, &json!("cancelled"), None), "{answer:?}");
}

/// A backend that takes one call, tells when it has, and answers what it is given.
fn backend() -> (String, mpsc::Receiver<()>, mpsc::Sender<&'static str>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (called, calls) = mpsc::channel();
    let (answer, answers) = mpsc::channel::<&'static str>();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            if called.send(()).is_err() {
                return;
            }
            let Ok(answer) = answers.recv() else { return };
            let _ = write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}");
        }
    });
    (url, calls, answer)
}

#[test]
fn an_order_without_a_worker_is_cancelled_at_once_and_for_good() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let (id, message) = submit(&handler, "C-1");

    let answer = handler.cancel(&id);

    is_cancelled(&answer);
    assert_eq!(events(&answer.body), ["accepted", "cancelled"]);
    assert_eq!(answer.headers["ETag"], handler.status(&id).headers["ETag"], "it is the status");
    is_cancelled(&handler.cancel(&id));
    assert_eq!((handler.process(&message).status, &handler.status(&id).body), (200, &answer.body), "its message changes nothing");
    let again = handler.ingress(Some(&order("C-1").to_string()), &[]);
    assert_eq!((again.status, &again.body["status"], again.message), (202, &json!("cancelled"), None), "nor does asking again");
}

#[test]
fn an_order_that_has_ended_otherwise_stays_so() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let (id, message) = submit(&handler, "C-2");
    assert_eq!(handler.process(&message).status, 200);

    let answer = handler.cancel(&id);

    assert_eq!((answer.status, &answer.body["type"]), (409, &json!("urn:problem-type:waybill:order-ended")));
    assert_eq!((&answer.body["detail"], &answer.body["orderStatus"]), (&json!("the order is completed and stays so"), &json!("completed")));
    assert_eq!(handler.status(&id).body["status"], "completed");
    let accepted = handler.ingress(Some(&hopeless("C-2-FAILS").to_string()), &[]);
    assert_eq!(handler.process(&accepted.message.unwrap()).status, 200);
    let answer = handler.cancel(accepted.body["trackingId"].as_str().unwrap());
    assert_eq!((answer.status, &answer.body["orderStatus"]), (409, &json!("failed")), "{answer:?}");
}

#[test]
fn what_is_not_there_cannot_be_cancelled() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    for id in ["0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10", "x", ""] {
        let answer = handler.cancel(id);
        assert_eq!((answer.status, &answer.body["type"]), (404, &json!("urn:problem-type:waybill:order-not-found")), "{id}");
    }
}

#[test]
fn a_worker_that_can_stop_sees_the_wish_at_its_next_renewal() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[&LEASE[..], &[("WORK_DELAY", "20s")]].concat());
    let (id, message) = submit(&handler, "C-3");

    std::thread::scope(|scope| {
        let working = scope.spawn(|| handler.process(&message).status);
        eventually("it is worked on", || (handler.status(&id).body["status"] == "processing").then_some(()));
        let answer = handler.cancel(&id);
        assert_eq!((answer.status, &answer.body["status"], &answer.body["cancelRequested"]), (202, &json!("processing"), &json!(true)));
        let status_url = format!("http://localhost:7071/api/orders/{id}/status");
        assert_eq!((&answer.headers["Location"], &answer.headers["Retry-After"]), (&json!(status_url), &json!("1")));
        let ended = eventually("it is cancelled", || Some(handler.cancel(&id)).filter(|answer| answer.status == 200));
        is_cancelled(&ended);
        assert_eq!((events(&ended.body), ended.body.get("cancelRequested")), (vec!["accepted", "claimed", "cancelled"], None));
        assert_eq!(working.join().unwrap(), 200);
    });
}

#[test]
fn a_call_in_flight_is_not_broken_off_and_what_it_did_counts() {
    let (url, called, answers) = backend();
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[&LEASE[..], &[("FULFILLMENT_URL", &url)]].concat());
    let (id, message) = submit(&handler, "C-4");

    std::thread::scope(|scope| {
        let working = scope.spawn(|| handler.process(&message).status);
        called.recv().unwrap();
        assert_eq!(handler.cancel(&id).status, 202);
        let wish = handler.status(&id).body["updatedAt"].clone();
        eventually("the lease is renewed, and the wish with it", || {
            let status = handler.status(&id).body;
            (status["updatedAt"] != wish && status["cancelRequested"] == true).then_some(())
        });
        answers.send("200 OK").unwrap();
        assert_eq!(working.join().unwrap(), 200);
    });

    assert_eq!(events(&handler.status(&id).body), ["accepted", "claimed", "completed"]);
}

#[test]
fn a_try_that_failed_is_not_followed_by_another() {
    let (url, called, answers) = backend();
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[&LEASE[..], &[("FULFILLMENT_URL", &url), ("RETRY_BASE", "10ms")]].concat());
    let (id, message) = submit(&handler, "C-5");

    std::thread::scope(|scope| {
        let working = scope.spawn(|| handler.process(&message).status);
        called.recv().unwrap();
        assert_eq!(handler.cancel(&id).status, 202);
        answers.send("503 Busy").unwrap();
        assert_eq!(working.join().unwrap(), 200);
    });

    let status = handler.status(&id).body;
    assert_eq!((events(&status), status.get("error")), (vec!["accepted", "claimed", "cancelled"], None), "{status}");
    assert!(called.try_recv().is_err(), "one call");
}

#[test]
fn an_order_that_waits_for_its_next_try_is_cancelled_at_once() {
    let (url, called, answers) = backend();
    let data = Directory::new();
    // Two seconds are left of an invocation, for the work and for waiting.
    let times = [("FUNCTION_TIMEOUT", "18s"), ("FULFILLMENT_TIMEOUT", "500ms"), ("RETRY_BASE", "1h"), ("RETRY_CAP", "1h")];
    let handler = Handler::start(data.path(), &[&times[..], &[("FULFILLMENT_URL", url.as_str())]].concat());
    let (id, message) = submit(&handler, "C-6");
    answers.send("503 Busy\r\nRetry-After: 600").unwrap();
    // Without a queue to schedule in, the message comes back.
    assert_eq!(handler.process(&message).status, 500);
    called.recv().unwrap();
    assert!(handler.status(&id).body["nextAttemptAt"].is_string());

    let answer = handler.cancel(&id);

    is_cancelled(&answer);
    assert_eq!((events(&answer.body), answer.body.get("nextAttemptAt")), (vec!["accepted", "claimed", "retrying", "cancelled"], None));
    assert_eq!(handler.process(&message).status, 200);
}

#[test]
fn a_cancel_request_outlives_a_worker_that_died() {
    let data = Directory::new();
    // The instance has another name each time, so that the worker's death is not seen at once.
    let settings = |instance| [&LEASE[..], &[("WORK_DELAY", "20s"), ("CONTAINER_NAME", instance)]].concat();
    let mut first = Handler::start(data.path(), &settings("one"));
    let (id, message) = submit(&first, "C-7");
    let url = first.url("/OrderProcessor");
    let envelope = crate::support::queue_envelope(&message).to_string();
    let killed = std::thread::spawn(move || crate::support::try_request("POST", &url, &[], Some(envelope.as_bytes())).is_err());
    eventually("it is worked on", || (first.status(&id).body["status"] == "processing").then_some(()));
    first.program.kill();
    assert!(killed.join().unwrap());
    let second = Handler::start(data.path(), &settings("two"));
    assert_eq!(second.cancel(&id).status, 202);

    assert_eq!(second.process(&message).status, 200);

    assert_eq!(events(&second.status(&id).body), ["accepted", "claimed", "cancelled"]);
}

#[test]
fn it_is_a_delete_of_the_order_itself() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[("WORK_DELAY", "20s"), ("LEASE", "1s")]);
    let id = host.submit(&order("C-8"));
    let url = host.url(&format!("/api/orders/{id}"));

    let answer = eventually("it is cancelled", || Some(request("DELETE", &url, &[], None)).filter(|answer| answer.status == 200));

    assert_eq!(answer.json()["status"], "cancelled");
    assert_eq!(host.ended(&id)["status"], "cancelled");
}

#[test]
fn a_claim_answered_after_its_lease_makes_no_call_for_a_cancelled_order() {
    let emulator = Emulator::start(&[]);
    let (url, called, answers) = backend();
    let settings = [&LEASE[..], &[("FULFILLMENT_URL", &url)]].concat();
    let handler = Handler::begin(&emulator.with(&settings)).ready();
    let (id, message) = submit(&handler, "C-LATE");
    // The claim is recorded at once, and its answer comes when the lease has run out.
    emulator.fault(&json!({ "kind": "delay", "ms": 3000, "operations": ["replace"], "count": 1 }));

    std::thread::scope(|scope| {
        let working = scope.spawn(|| handler.process(&message).status);
        eventually("it is claimed", || (handler.status(&id).body["status"] == "processing").then_some(()));
        is_cancelled(&eventually("it is cancelled", || Some(handler.cancel(&id)).filter(|answer| answer.status == 200)));
        // Should it be called all the same, it must not hang.
        answers.send("200 OK").unwrap();
        assert_eq!(working.join().unwrap(), 200);
    });

    assert!(called.try_recv().is_err(), "no call is made for a cancelled order");
    assert_eq!(events(&handler.status(&id).body), ["accepted", "claimed", "cancelled"]);
}

#[test]
fn a_claim_answered_late_makes_no_call_for_an_order_that_is_to_be_cancelled() {
    let emulator = Emulator::start(&[]);
    let (url, called, answers) = backend();
    let handler = Handler::begin(&emulator.with(&[("LEASE", "5s"), ("FULFILLMENT_URL", &url)])).ready();
    let (id, message) = submit(&handler, "C-WISH");
    // The claim is recorded at once, and its answer comes after half of the lease, which still holds.
    emulator.fault(&json!({ "kind": "delay", "ms": 3000, "operations": ["replace"], "count": 1 }));

    std::thread::scope(|scope| {
        let working = scope.spawn(|| handler.process(&message).status);
        eventually("it is claimed", || (handler.status(&id).body["status"] == "processing").then_some(()));
        assert_eq!(handler.cancel(&id).status, 202);
        // Should it be called all the same, it must not hang.
        answers.send("200 OK").unwrap();
        assert_eq!(working.join().unwrap(), 200);
    });

    assert!(called.try_recv().is_err(), "no first call is made for an order that is to be cancelled");
    let status = handler.status(&id).body;
    assert_eq!((events(&status), &status["attempt"]), (vec!["accepted", "claimed", "cancelled"], &json!(1)), "{status}");
}
