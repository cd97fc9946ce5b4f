//! The footer of a spool record, which `edge_scp.spool.record` reads: what is known of an instance, and a checksum.

use crate::clock::timestamp;
use crate::instance::SpooledInstance;

const MAGIC: &[u8; 8] = b"BUCKYSP1";

/// What is known of one instance.
pub struct Record<'a> {
    pub study: &'a str,
    pub series: &'a str,
    pub sop_instance: &'a str,
    pub sop_class: &'a str,
    pub transfer_syntax: &'a str,
    pub sha256: &'a str,
    /// Bytes of the DICOM file, and where in it the data set begins.
    pub object_size: u64,
    pub data_set_offset: u64,
    /// The JSON members that all instances of an association have in common.
    pub caller: &'a str,
    pub traceparent: &'a str,
}

impl<'a> Record<'a> {
    pub fn new(instance: &'a SpooledInstance, data_set_offset: u64) -> Self {
        let SpooledInstance { uids, context, caller, sha256, traceparent, data_set_size, .. } = instance;
        Self {
            study: &uids.study,
            series: &uids.series,
            sop_instance: &uids.sop_instance,
            sop_class: &context.sop_class,
            transfer_syntax: &context.transfer_syntax,
            sha256,
            object_size: data_set_offset + data_set_size,
            data_set_offset,
            caller: &caller.record_fields,
            traceparent,
        }
    }

    /// Returns the footer and its trailer, which follow the DICOM file; `received_ns` counts from 1970.
    pub fn footer(&self, received_ns: u64) -> Vec<u8> {
        let Record { study, series, sop_instance, sop_class, transfer_syntax, sha256, .. } = self;
        let Record { object_size, data_set_offset, caller, traceparent, .. } = self;
        let received_at = timestamp(received_ns);
        // JSON has nothing to escape in UIDs, digests and traces.
        let text = format!(
            "{{\"study_instance_uid\":\"{study}\",\"series_instance_uid\":\"{series}\",\
             \"sop_instance_uid\":\"{sop_instance}\",\"sop_class_uid\":\"{sop_class}\",\
             \"transfer_syntax_uid\":\"{transfer_syntax}\",\"sha256\":\"{sha256}\",\
             \"object_size\":{object_size},\"data_set_offset\":{data_set_offset},{caller},\
             \"received_at\":\"{received_at}\",\"traceparent\":\"{traceparent}\"}}"
        );
        let mut footer = text.into_bytes();
        let (length, checksum) = (footer.len() as u32, crc32fast::hash(&footer));
        footer.extend_from_slice(&length.to_le_bytes());
        footer.extend_from_slice(&checksum.to_le_bytes());
        footer.extend_from_slice(MAGIC);
        footer
    }
}
