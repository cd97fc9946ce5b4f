use super::world::{Counters, REFUSING, TAKEN};

#[test]
fn bytes_are_counted_for_the_instance_and_for_all() {
    let counters = Counters::new();
    let mut capacity = counters.capacity(100);
    let mut taken = 0;
    assert_eq!(capacity.admit(60, &mut taken), Ok(()));
    assert_eq!(capacity.take(30, &mut taken), Ok(()));
    assert_eq!((taken, counters.words.get(TAKEN)), (90, 90));
    capacity.give_back(taken);
    assert_eq!(counters.words.get(TAKEN), 0);
}

#[test]
fn what_there_is_no_room_for_is_not_counted() {
    let counters = Counters::new();
    let mut capacity = counters.capacity(100);
    let mut taken = 5;
    assert_eq!(capacity.take(101, &mut taken), Err("The spool is full".to_owned()));
    assert_eq!((taken, counters.words.get(TAKEN)), (5, 0));
}

#[test]
fn an_allowance_ends_when_the_spool_refuses() {
    use crate::capacity::Capacity;
    use crate::shared_memory::SharedWords;
    use std::os::fd::AsRawFd;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    let page = super::world::shared_memory(16);
    let words = SharedWords::open(page.as_raw_fd()).unwrap();
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let ask = move |_size| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(1000)
    };
    let mut capacity = Capacity::new(SharedWords::open(page.as_raw_fd()).unwrap(), REFUSING, TAKEN, Box::new(ask));
    let mut taken = 0;
    for _ in 0..10 {
        capacity.admit(10, &mut taken).unwrap();
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    words.set(REFUSING, 1);
    capacity.take(10, &mut taken).unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    capacity.admit(10, &mut taken).unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}
