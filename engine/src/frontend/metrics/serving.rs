//! TensorFlow Serving's page: dashboards and alerts know these names, labels and limits.

use std::sync::atomic::Ordering;

use crate::metrics::text::{significant, Page};
use crate::metrics::Metrics;

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";
const HISTOGRAM: &str = "histogram";

/// Raw name, kind, and what writes the samples.
type Metric = (&'static str, &'static str, fn(&mut Page, &str, &Metrics));

const METRICS: [Metric; 14] = [
    ("batching_session/input_batch_size", HISTOGRAM, |page, name, metrics| {
        let histogram = &metrics.batching.input_size;
        if !histogram.is_empty() {
            page.histogram(name, &[], histogram, significant);
        }
    }),
    ("batching_session/padding_size", HISTOGRAM, |page, name, metrics| {
        for (size, histogram) in metrics.batching.padding() {
            let size = size.to_string();
            page.histogram(name, &[("execution_batch_size", &size)], &histogram, significant);
        }
    }),
    ("batching_session/processed_batch_size", HISTOGRAM, |page, name, metrics| {
        let histogram = &metrics.batching.processed_size;
        if !histogram.is_empty() {
            page.histogram(name, &[], histogram, significant);
        }
    }),
    ("batching_session/queuing_latency", HISTOGRAM, |page, name, metrics| {
        let histogram = &metrics.batching.queuing;
        if !histogram.is_empty() {
            page.histogram(name, &[("thread_pool_name", "")], histogram, significant);
        }
    }),
    ("batching_session/wrapped_run_count", COUNTER, |page, name, metrics| {
        match metrics.batching.runs.load(Ordering::Relaxed) {
            0 => {}
            runs => page.sample(name, &[], runs),
        }
    }),
    // Its value is text, which the page cannot show.
    ("mlmd_map", GAUGE, |page, name, metrics| {
        for (model, version, _) in metrics.mlmd.all() {
            let version = version.to_string();
            page.sample(name, &[("model_name", &model), ("version", &version)], 0);
        }
    }),
    ("model_warmup_latency", HISTOGRAM, |page, name, metrics| {
        for warmup in metrics.warmups.all() {
            let labels = [("model_path", &*warmup.path), ("status", &*warmup.status)];
            page.histogram(name, &labels, &warmup.latency, significant);
        }
    }),
    ("model_warmup_records_read", COUNTER, |page, name, metrics| {
        for warmup in metrics.warmups.all() {
            let labels = [("model_path", &*warmup.path), ("status", &*warmup.status)];
            page.sample(name, &labels, warmup.records.load(Ordering::Relaxed));
        }
    }),
    ("request_count", COUNTER, |page, name, metrics| {
        for (model, series) in metrics.models.sorted() {
            for (code, count) in series.codes.counted() {
                page.sample(name, &[("model_name", &model), ("status", code.name())], count);
            }
        }
    }),
    ("request_example_count_total", COUNTER, |page, name, metrics| {
        for (model, series) in metrics.models.sorted() {
            if series.example_counts.get().is_some() {
                let count = series.examples.load(Ordering::Relaxed);
                page.sample(name, &[("model", &model)], count);
            }
        }
    }),
    ("request_example_counts", HISTOGRAM, |page, name, metrics| {
        for (model, series) in metrics.models.sorted() {
            if let Some(histogram) = series.example_counts.get() {
                page.histogram(name, &[("model", &model)], histogram, significant);
            }
        }
    }),
    ("request_latency", HISTOGRAM, |page, name, metrics| {
        for (model, series) in metrics.models.sorted() {
            for ((api, entrypoint), histogram) in series.latencies() {
                let labels = [("model_name", &*model), ("API", api), ("entrypoint", entrypoint)];
                page.histogram(name, &labels, histogram, significant);
            }
        }
    }),
    ("request_log_count", COUNTER, |page, name, metrics| {
        for (model, codes) in metrics.request_logs.all() {
            for (code, count) in codes.counted() {
                page.sample(name, &[("model_name", &model), ("status_code", code.name())], count);
            }
        }
    }),
    ("runtime_latency", HISTOGRAM, |page, name, metrics| {
        for (model, series) in metrics.models.sorted() {
            for (api, histogram) in series.runtimes() {
                let labels = [("model_name", &*model), ("API", api), ("runtime", "TF1")];
                page.histogram(name, &labels, histogram, significant);
            }
        }
    }),
];

/// Everything that was counted since the server was made.
pub fn page(metrics: &Metrics) -> String {
    let mut page = Page::default();
    for (name, kind, samples) in METRICS {
        let name = format!(":tensorflow:serving:{}", name.replace('/', ":"));
        page.declare(&name, kind, None);
        samples(&mut page, &name, metrics);
    }
    page.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Method, Protocol};
    use crate::status::Code;
    use std::time::Duration;

    #[test]
    fn a_page_declares_everything_and_shows_what_was_counted() {
        let metrics = Metrics::default();
        let empty = page(&metrics);
        assert_eq!(empty.lines().count(), METRICS.len());
        assert!(empty.contains("\n# TYPE :tensorflow:serving:request_count counter\n"));

        let model = metrics.models.get("m");
        model.codes.count(Code::NotFound);
        model.record_latency(Method::Predict, Protocol::Rest, Duration::from_micros(20));
        model.record_run(Method::MultiInference, Duration::from_micros(1));
        model.record_examples(3);
        metrics.batching.ran(8, 2);
        metrics.batching.input_size.record(6);
        metrics.batching.queuing.record(1);
        metrics.request_logs.get("m").count(Code::ResourceExhausted);
        metrics.mlmd.set("m", 3, Some("uuid".to_owned()));
        metrics.mlmd.set("m", 4, Some("uuid".to_owned()));
        metrics.mlmd.set("m", 4, None);
        metrics.warmups.record("/m/1", "OK", 3, Duration::from_millis(2));
        let page = page(&metrics);

        for line in [
            "request_count{model_name=\"m\",status=\"NOT_FOUND\"} 1",
            "request_latency_bucket{model_name=\"m\",API=\"predict\",entrypoint=\"REST\",le=\"18\"} 0",
            "request_latency_bucket{model_name=\"m\",API=\"predict\",entrypoint=\"REST\",le=\"32.4\"} 1",
            "request_latency_sum{model_name=\"m\",API=\"predict\",entrypoint=\"REST\"} 20",
            "runtime_latency_count{model_name=\"m\",API=\"MultiInference\",runtime=\"TF1\"} 1",
            "request_example_counts_sum{model=\"m\"} 3",
            "request_example_count_total{model=\"m\"} 3",
            "request_log_count{model_name=\"m\",status_code=\"RESOURCE_EXHAUSTED\"} 1",
            "mlmd_map{model_name=\"m\",version=\"3\"} 0",
            "batching_session:padding_size_sum{execution_batch_size=\"8\"} 2",
            "batching_session:wrapped_run_count{} 1",
            "batching_session:processed_batch_size_bucket{le=\"8\"} 1",
            "batching_session:input_batch_size_count{} 1",
            "batching_session:queuing_latency_count{thread_pool_name=\"\"} 1",
            "model_warmup_records_read{model_path=\"/m/1\",status=\"OK\"} 3",
            "model_warmup_latency_sum{model_path=\"/m/1\",status=\"OK\"} 2000",
        ] {
            assert!(page.contains(&format!("\n:tensorflow:serving:{line}\n")), "{line}\n{page}");
        }
        assert!(!page.contains("version=\"4\""));
    }
}
