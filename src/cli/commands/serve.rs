//! `xlnet serve`: a fine-tuned model behind HTTP, JSON in and out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request as HttpRequest, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::cli::args::ServeArgs;
use crate::cli::output::print;
use crate::task::fine_tuned::FineTuned;
use crate::task::predict::{Predictor, Request, Response};

/// A request on its way to the model, and where its answer goes.
struct Job {
    request: Request,
    answer: oneshot::Sender<crate::Result<Response>>,
}

/// What all handlers share.
struct Service {
    queue: mpsc::Sender<Job>,
    predictor: Arc<Predictor>,
    counts: Counts,
    most_requests: usize,
    patience: Duration,
}

/// Counters since the start.
#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    full: AtomicU64,
    microseconds: AtomicU64,
}

/// One request, or several at once.
#[derive(Deserialize)]
#[serde(untagged)]
enum Body {
    Several { requests: Vec<Value> },
    One(Value),
}

/// Serves until a signal arrives; requests that have been taken are answered before the end.
pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let model = FineTuned::open(&args.model_dir, args.device.resolve()?, args.batch)?;
    let task = model.file.task.name.clone();
    let predictor = Arc::new(Predictor::new(model, args.programs)?);
    let (queue, jobs) = mpsc::channel(args.queue.max(1));
    let worker = {
        let (predictor, batch) = (predictor.clone(), args.batch.max(1));
        std::thread::spawn(move || work(&predictor, jobs, batch))
    };
    let service = Arc::new(Service {
        queue,
        predictor,
        counts: Counts::default(),
        most_requests: args.queue.max(1),
        patience: Duration::from_secs(args.timeout.max(1)),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("the threads of the server cannot be started")?;
    runtime.block_on(async {
        let router = Router::new()
            .route("/predict", post(predict))
            .route("/metrics", get(metrics))
            .layer(from_fn_with_state(service.clone(), limit_time))
            .route("/health", get(health))
            .layer(DefaultBodyLimit::max(args.max_body))
            .with_state(service);
        let listener = tokio::net::TcpListener::bind(args.address).await;
        let listener = listener.with_context(|| format!("cannot listen on {}; is it in use?", args.address))?;
        let address: SocketAddr = listener.local_addr().context("the address is not known")?;
        print(&format!("task {task}: POST http://{address}/predict, GET /health, GET /metrics; Ctrl-C stops"));
        let ended = axum::serve(listener, router).with_graceful_shutdown(signal()).await;
        ended.context("the server failed")
    })?;
    drop(runtime);
    // The last sender of the queue went with the router, so the worker ends when the queue is empty.
    worker.join().map_err(|_| anyhow::anyhow!("the model's thread failed"))?;
    print("stopped");
    Ok(())
}

/// The first Ctrl-C or SIGTERM.
async fn signal() {
    let (sender, mut receiver) = mpsc::channel(1);
    let sent = ctrlc::set_handler(move || {
        if sender.try_send(()).is_err() {
            std::process::exit(130); // the second one does not wait
        }
    });
    if sent.is_err() {
        std::future::pending::<()>().await;
    }
    receiver.recv().await;
    // Kept open but never read again, so that the second signal finds it full.
    std::mem::forget(receiver);
}

/// Answers jobs until the queue closes: as many at a time as are waiting, up to `batch`.
fn work(predictor: &Predictor, mut jobs: mpsc::Receiver<Job>, batch: usize) {
    while let Some(first) = jobs.blocking_recv() {
        let mut some = vec![first];
        while some.len() < batch
            && let Ok(job) = jobs.try_recv()
        {
            some.push(job);
        }
        some.retain(|job| !job.answer.is_closed()); // the client hung up
        let requests: Vec<Request> = some.iter().map(|job| job.request.clone()).collect();
        for (job, answer) in some.into_iter().zip(predictor.predict(&requests)) {
            let _ = job.answer.send(answer); // nobody may be waiting any more
        }
    }
}

fn refuse(status: StatusCode, what: impl Into<String>) -> HttpResponse {
    (status, [(header::CONTENT_TYPE, "application/json")], json!({"error": what.into()}).to_string()).into_response()
}

fn answer(value: &Value) -> HttpResponse {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// A request that takes too long, in sending or in waiting, is dropped.
async fn limit_time(State(service): State<Arc<Service>>, request: HttpRequest, next: Next) -> HttpResponse {
    match tokio::time::timeout(service.patience, next.run(request)).await {
        Ok(response) => response,
        Err(_) => refuse(StatusCode::REQUEST_TIMEOUT, "the request took too long"),
    }
}

async fn health(State(service): State<Arc<Service>>) -> HttpResponse {
    let file = &service.predictor.model().file;
    answer(&json!({"status": "ok", "task": file.task.name, "step": file.step}))
}

async fn metrics(State(service): State<Arc<Service>>) -> HttpResponse {
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let counts = &service.counts;
    let waiting = service.queue.max_capacity() - service.queue.capacity();
    let seconds = read(&counts.microseconds) as f64 / 1e6;
    let text = format!(
        "# TYPE xlnet_requests_total counter\n\
         xlnet_requests_total{{outcome=\"answered\"}} {}\n\
         xlnet_requests_total{{outcome=\"refused\"}} {}\n\
         xlnet_requests_total{{outcome=\"failed\"}} {}\n\
         xlnet_requests_total{{outcome=\"queue_full\"}} {}\n\
         # TYPE xlnet_request_seconds_total counter\n\
         xlnet_request_seconds_total {seconds}\n\
         # TYPE xlnet_queue_length gauge\n\
         xlnet_queue_length {waiting}\n",
        read(&counts.answered),
        read(&counts.refused),
        read(&counts.failed),
        read(&counts.full)
    );
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn predict(State(service): State<Arc<Service>>, body: Bytes) -> HttpResponse {
    let begun = Instant::now();
    let (response, count) = match respond(&service, &body).await {
        Ok(value) => (answer(&value), &service.counts.answered),
        Err((status, what)) => {
            let counts = &service.counts;
            let count = match status {
                StatusCode::SERVICE_UNAVAILABLE => &counts.full,
                status if status.is_client_error() => &counts.refused,
                _ => &counts.failed,
            };
            (refuse(status, what), count)
        }
    };
    count.fetch_add(1, Ordering::Relaxed);
    service.counts.microseconds.fetch_add(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
    response
}

/// The answer as JSON: one, or a list in which what is wrong with a request stands in its place.
async fn respond(service: &Service, body: &[u8]) -> Result<Value, (StatusCode, String)> {
    let bad = |what: String| (StatusCode::BAD_REQUEST, what);
    let body: Body = serde_json::from_slice(body).map_err(|e| bad(format!("the body is no JSON: {e}")))?;
    let (values, several) = match body {
        Body::Several { requests } => (requests, true),
        Body::One(value) => (vec![value], false),
    };
    if values.len() > service.most_requests {
        let (got, most) = (values.len(), service.most_requests);
        return Err((StatusCode::PAYLOAD_TOO_LARGE, format!("there are {got} requests at once; {most} are allowed")));
    }
    let parse = |value: Value| {
        if !value.is_object() {
            return Err(bad("a request must be a JSON object".into()));
        }
        serde_json::from_value::<Request>(value).map_err(|e| bad(format!("this is no request: {e}")))
    };
    let requests = values.into_iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let mut waiting = vec![];
    for request in requests {
        let (answer, receiver) = oneshot::channel();
        service.queue.try_send(Job { request, answer }).map_err(|_| {
            (StatusCode::SERVICE_UNAVAILABLE, "too many requests are waiting; try again later".to_owned())
        })?;
        waiting.push(receiver);
    }
    let lost = || (StatusCode::INTERNAL_SERVER_ERROR, "the model's thread is gone".to_owned());
    let mut answers = vec![];
    for receiver in waiting {
        let answer = receiver.await.map_err(|_| lost())?;
        let json = |response: Response| {
            serde_json::to_value(response).map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
        };
        answers.push(match answer {
            Ok(response) => json(response)?,
            Err(error) if several => json!({"error": error.to_string()}),
            Err(error) => {
                // What the request's author can mend is a matter of configuration or data, not of the device.
                let device = matches!(error.kind(), crate::ErrorKind::Device(_) | crate::ErrorKind::Plan(_));
                let status = if device { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::BAD_REQUEST };
                return Err((status, error.to_string()));
            }
        });
    }
    Ok(if several { json!({"responses": answers}) } else { answers.remove(0) })
}
