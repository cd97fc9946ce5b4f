use super::world::CommitWorker;
use crate::sync_queue::{Completed, SyncQueue};

#[test]
fn files_are_submitted_and_completed_by_count() {
    let worker = CommitWorker::new();
    let queue = SyncQueue::open(worker.end()).unwrap();
    assert_eq!((queue.submitted(), queue.completed()), (0, Completed { files: 0, epoch: 0 }));
    queue.submit(3);
    assert!(worker.requests.clear());
    assert!(!worker.requests.clear());
    assert!(!queue.replies.clear());
    worker.complete(7);
    assert!(queue.replies.wait(1000));
    assert_eq!(queue.completed(), Completed { files: 3, epoch: 7 });
    assert!(!queue.replies.wait(1));
}

#[test]
fn a_successor_continues_the_count() {
    let worker = CommitWorker::new();
    SyncQueue::open(worker.end()).unwrap().submit(5);
    worker.complete(0xFFFF);
    let queue = SyncQueue::open(worker.end()).unwrap();
    assert_eq!((queue.submitted(), queue.completed()), (5, Completed { files: 5, epoch: 0xFFFF }));
}
