//! One request while it is answered: what it is for, how far it is, how it ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::series::{Method, ModelSeries, Protocol, RequestSeries, Stage, VersionSeries};
use super::Metrics;
use crate::status::Code;

/// Counts its request when it is dropped: as CANCELLED, unless [`Exchange::finish`] said otherwise.
pub struct Exchange<'m> {
    metrics: &'m Metrics,
    method: Method,
    protocol: Protocol,
    began: Instant,
    /// When the last stage ended.
    lap: Instant,
    stages: [Duration; Stage::ALL.len()],
    model: Option<Arc<ModelSeries>>,
    version: Option<Arc<RequestSeries>>,
    /// Whether the last stage has ended.
    is_encoded: bool,
    code: Code,
}

/// When a run was begun and ended by the thread that did it.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub began: Instant,
    pub ended: Instant,
}

impl<'m> Exchange<'m> {
    pub(super) fn new(metrics: &'m Metrics, method: Method, protocol: Protocol) -> Self {
        metrics.count_in_flight(protocol, 1);
        let now = Instant::now();
        Self {
            metrics,
            method,
            protocol,
            began: now,
            lap: now,
            stages: Default::default(),
            model: None,
            version: None,
            is_encoded: false,
            code: Code::Cancelled,
        }
    }

    /// Say what is asked for, where that is not known from the beginning.
    pub fn is_for(&mut self, method: Method) {
        self.method = method;
    }

    /// Say which model the request names; there need be none.
    pub fn names(&mut self, model: &str) {
        self.model = Some(self.metrics.models.get(model));
    }

    /// Say which version answers, and for which of its signatures, `""` for none.
    pub fn resolved(&mut self, version: &VersionSeries, signature_name: &str) {
        self.version = Some(version.get(self.method, self.protocol, signature_name));
    }

    /// Say that a stage ended just now.
    pub fn ended(&mut self, stage: Stage) {
        let now = Instant::now();
        self.stages[stage as usize] += now - self.lap;
        self.lap = now;
        self.is_encoded = stage == Stage::Encode;
    }

    /// When the last stage ended.
    pub fn lap(&self) -> Instant {
        self.lap
    }

    /// Say that the servable ran, with success, and when this request went on after it.
    pub fn ran(&mut self, run: Run, resumed: Instant) {
        self.stages[Stage::Queue as usize] += run.began - self.lap;
        let time = run.ended - run.began;
        self.stages[Stage::Run as usize] += time;
        self.lap = resumed;
        if let Some(model) = &self.model {
            model.record_run(self.method, time);
        }
    }

    /// The name of the signature that was resolved, `""` for none.
    pub fn signature_name(&self) -> &str {
        self.version.as_ref().map_or("", |version| &version.signature_name)
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub fn has_examples(&self, count: usize) {
        if let Some(model) = &self.model {
            model.record_examples(count);
        }
    }

    /// Say how it ended.
    pub fn finish(mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        let Self { metrics, method, protocol, code, .. } = *self;
        metrics.count_in_flight(protocol, -1);
        // Looking at the clock is what counting costs most.
        let total = if self.is_encoded { self.lap - self.began } else { self.began.elapsed() };
        let is_counted_there = match protocol {
            Protocol::Rest => true,
            Protocol::Grpc => {
                matches!(method, Method::Predict | Method::Classify | Method::Regress)
            }
        };
        if let Some(model) = self.model.as_ref().filter(|_| is_counted_there) {
            model.codes.count(code);
            if code == Code::Ok {
                model.record_latency(method, protocol, total);
            }
        }
        let Some(version) = &self.version else {
            metrics.unresolved[protocol as usize][method as usize].count(code);
            return;
        };
        version.codes.count(code);
        if code == Code::Ok {
            version.total.record_time(total);
            for (histogram, time) in version.stages.iter().zip(self.stages) {
                histogram.record_time(time);
            }
        }
    }
}
