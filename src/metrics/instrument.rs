//! Counters, gauges and histograms whose labels have fixed sets of values. Recording is one or two atomic additions, and takes no lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Labels of a series, each with a fixed set of values.
pub trait Labels: Copy {
    /// How many series these labels make.
    const COUNT: usize;
    /// The place of these values among all.
    fn index(self) -> usize;
    /// Adds the names and the values at a place.
    fn add_at(index: usize, labels: &mut Vec<(&'static str, &'static str)>);
}

impl Labels for () {
    const COUNT: usize = 1;

    fn index(self) -> usize {
        0
    }

    fn add_at(_: usize, _: &mut Vec<(&'static str, &'static str)>) {}
}

impl<A: Labels, B: Labels> Labels for (A, B) {
    const COUNT: usize = A::COUNT * B::COUNT;

    fn index(self) -> usize {
        self.0.index() * B::COUNT + self.1.index()
    }

    fn add_at(index: usize, labels: &mut Vec<(&'static str, &'static str)>) {
        A::add_at(index / B::COUNT, labels);
        B::add_at(index % B::COUNT, labels);
    }
}

/// What is read of an instrument.
#[derive(Debug)]
pub struct Series {
    /// Names and values of the labels.
    pub labels: Vec<(&'static str, &'static str)>,
    /// The value now.
    pub value: Value,
}

/// The value of a series.
#[derive(Debug)]
pub enum Value {
    /// A number that only grows.
    Counter(u64),
    /// A number that rises and falls.
    Gauge(f64),
    /// Measurements by size: `counts` has one more than `bounds`, for those above the last bound.
    Histogram {
        /// Upper bounds, each inclusive.
        bounds: &'static [f64],
        /// Measurements between a bound and the one before it.
        counts: Vec<u64>,
        /// Sum of the measurements.
        sum: f64,
    },
}

/// The kind of an instrument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`Value::Counter`].
    Counter,
    /// [`Value::Gauge`].
    Gauge,
    /// [`Value::Histogram`].
    Histogram,
}

/// An instrument, as its readers see it.
pub(super) trait Instrument {
    const KIND: Kind;

    /// Counters and gauges have all of their series from the start, so that the first event is seen as a change. A histogram, which is
    /// many lines, has those with a measurement.
    fn series(&self) -> Vec<Series>;

    /// All labels that a series may have.
    fn labels() -> Vec<Vec<(&'static str, &'static str)>>;
}

/// Counts events.
#[derive(Debug)]
pub struct Counter<L> {
    counts: Box<[AtomicU64]>,
    labels: std::marker::PhantomData<L>,
}

impl<L: Labels> Counter<L> {
    pub(super) fn new() -> Self {
        Self { counts: zeros(L::COUNT), labels: std::marker::PhantomData }
    }

    /// Counts one event.
    pub fn count(&self, labels: L) {
        self.add(labels, 1);
    }

    /// Counts this many events.
    pub fn add(&self, labels: L, number: u64) {
        self.counts[labels.index()].fetch_add(number, Ordering::Relaxed);
    }
}

impl<L: Labels> Instrument for Counter<L> {
    const KIND: Kind = Kind::Counter;

    fn series(&self) -> Vec<Series> {
        all(&self.counts, L::add_at, |count| Value::Counter(count.load(Ordering::Relaxed)))
    }

    fn labels() -> Vec<Vec<(&'static str, &'static str)>> {
        labels::<L>()
    }
}

/// Events that are counted elsewhere, and read there.
#[derive(Debug)]
pub struct CountedElsewhere(fn() -> u64);

impl CountedElsewhere {
    pub(super) fn new(read: fn() -> u64) -> Self {
        Self(read)
    }
}

impl Instrument for CountedElsewhere {
    const KIND: Kind = Kind::Counter;

    fn series(&self) -> Vec<Series> {
        vec![Series { labels: Vec::new(), value: Value::Counter((self.0)()) }]
    }

    fn labels() -> Vec<Vec<(&'static str, &'static str)>> {
        labels::<()>()
    }
}

/// Keeps the last value.
#[derive(Debug)]
pub struct Gauge<L> {
    /// The bits of each value.
    values: Box<[AtomicU64]>,
    labels: std::marker::PhantomData<L>,
}

impl<L: Labels> Gauge<L> {
    pub(super) fn new() -> Self {
        Self { values: zeros(L::COUNT), labels: std::marker::PhantomData }
    }

    /// Sets the value.
    pub fn set(&self, labels: L, value: f64) {
        self.values[labels.index()].store(value.to_bits(), Ordering::Relaxed);
    }
}

impl<L: Labels> Instrument for Gauge<L> {
    const KIND: Kind = Kind::Gauge;

    fn series(&self) -> Vec<Series> {
        all(&self.values, L::add_at, |value| Value::Gauge(f64::from_bits(value.load(Ordering::Relaxed))))
    }

    fn labels() -> Vec<Vec<(&'static str, &'static str)>> {
        labels::<L>()
    }
}

/// Counts measurements by size.
#[derive(Debug)]
pub struct Histogram<L> {
    bounds: &'static [f64],
    series: Box<[Measured]>,
    labels: std::marker::PhantomData<L>,
}

#[derive(Debug)]
struct Measured {
    counts: Box<[AtomicU64]>,
    /// In millionths.
    sum: AtomicU64,
}

impl<L: Labels> Histogram<L> {
    /// `bounds` are in order.
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        let series = (0..L::COUNT).map(|_| Measured { counts: zeros(bounds.len() + 1), sum: AtomicU64::new(0) }).collect();
        Self { bounds, series, labels: std::marker::PhantomData }
    }

    /// Takes a time.
    pub fn time(&self, labels: L, time: Duration) {
        self.take(labels, time.as_secs_f64(), u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// Takes a size, which is not negative.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast keeps within the bounds of the type")]
    pub fn record(&self, labels: L, size: f64) {
        self.take(labels, size, (size * 1e6).round() as u64);
    }

    fn take(&self, labels: L, size: f64, millionths: u64) {
        let measured = &self.series[labels.index()];
        measured.counts[self.bounds.partition_point(|bound| *bound < size)].fetch_add(1, Ordering::Relaxed);
        measured.sum.fetch_add(millionths, Ordering::Relaxed);
    }
}

impl<L: Labels> Instrument for Histogram<L> {
    const KIND: Kind = Kind::Histogram;

    #[expect(clippy::cast_precision_loss, reason = "a sum of measurements is not exact to the millionth")]
    fn series(&self) -> Vec<Series> {
        let value = |measured: &Measured| Value::Histogram {
            bounds: self.bounds,
            counts: measured.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sum: measured.sum.load(Ordering::Relaxed) as f64 / 1e6,
        };
        let mut series = all(&self.series, L::add_at, value);
        series.retain(|series| matches!(&series.value, Value::Histogram { counts, .. } if counts.iter().any(|count| *count > 0)));
        series
    }

    fn labels() -> Vec<Vec<(&'static str, &'static str)>> {
        labels::<L>()
    }
}

fn zeros(number: usize) -> Box<[AtomicU64]> {
    (0..number).map(|_| AtomicU64::new(0)).collect()
}

fn all<C>(cells: &[C], add_labels: fn(usize, &mut Vec<(&'static str, &'static str)>), value: impl Fn(&C) -> Value) -> Vec<Series> {
    let series = cells.iter().enumerate().map(|(index, cell)| {
        let mut labels = Vec::new();
        add_labels(index, &mut labels);
        Series { labels, value: value(cell) }
    });
    series.collect()
}

fn labels<L: Labels>() -> Vec<Vec<(&'static str, &'static str)>> {
    let labels = (0..L::COUNT).map(|index| {
        let mut labels = Vec::new();
        L::add_at(index, &mut labels);
        labels
    });
    labels.collect()
}
