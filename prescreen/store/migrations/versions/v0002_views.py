"""The views for people who open the database themselves."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

V_STUDY = """
CREATE VIEW v_study AS
SELECT s.study_instance_uid,
       p.patient_id, p.issuer_of_patient_id, p.patient_name, p.patient_birth_date,
       p.accession_number, p.issuer_of_accession_number, p.study_date,
       s.first_received_at,
       (SELECT max(i.received_at) FROM instance i WHERE i.study_id = s.study_id)
           AS last_received_at,
       (SELECT count(*) FROM instance i WHERE i.study_id = s.study_id) AS instances,
       (SELECT count(*) FROM job c WHERE c.study_id = s.study_id) AS jobs,
       j.job_id AS last_job_id, j.stage, j.outcome, j.reason, j.due_at, j.attempts,
       (SELECT group_concat(f.label, ', ') FROM finding f
          JOIN result r ON r.result_id = f.result_id
         WHERE r.job_id = j.job_id AND f.state = 'flagged') AS flagged,
       (SELECT count(*) FROM outbox o JOIN job c ON c.job_id = o.job_id
         WHERE c.study_id = s.study_id AND o.state = 'pending') AS pending,
       (SELECT count(*) FROM outbox o JOIN job c ON c.job_id = o.job_id
         WHERE c.study_id = s.study_id AND o.state = 'held') AS held,
       (SELECT count(*) FROM outbox o JOIN job c ON c.job_id = o.job_id
         WHERE c.study_id = s.study_id AND o.state IN ('delivered', 'committed')) AS delivered,
       (SELECT count(*) FROM outbox o JOIN job c ON c.job_id = o.job_id
         WHERE c.study_id = s.study_id AND o.state = 'parked') AS parked
  FROM study s
  JOIN identity p ON p.identity_id = s.identity_id
  LEFT JOIN job j ON j.job_id = (SELECT max(c.job_id) FROM job c WHERE c.study_id = s.study_id)
"""

V_INSTANCE = """
CREATE VIEW v_instance AS
SELECT i.instance_id, s.study_instance_uid, i.series_instance_uid, i.sop_instance_uid,
       i.sop_class_uid, i.transfer_syntax_uid, i.modality, i.received_at,
       i.calling_ae_title, i.peer_address, i.size, i.sha256, i.path, i.removed_at,
       i.arrival, i.disposition, i.reason AS ignored_reason,
       r.job_id, r.outcome, r.reason, r.cardiothoracic_ratio
  FROM instance i
  JOIN study s ON s.study_id = i.study_id
  LEFT JOIN result r ON r.result_id =
       (SELECT max(n.result_id) FROM result n WHERE n.instance_id = i.instance_id)
"""

V_FINDING = """
CREATE VIEW v_finding AS
SELECT s.study_instance_uid, i.sop_instance_uid, i.instance_id, r.job_id, j.settled_at,
       f.label, f.probability, f.probability_unmasked, f.threshold, f.state, f.reason,
       r.result_id = (SELECT max(n.result_id) FROM result n WHERE n.instance_id = i.instance_id)
           AS newest
  FROM finding f
  JOIN result r ON r.result_id = f.result_id
  JOIN job j ON j.job_id = r.job_id
  JOIN instance i ON i.instance_id = r.instance_id
  JOIN study s ON s.study_id = i.study_id
"""

V_DELIVERY = """
CREATE VIEW v_delivery AS
SELECT o.outbox_id, s.study_instance_uid, o.job_id, o.destination, b.kind, b.audience,
       CASE WHEN o.uses_fallback THEN b.fallback_sop_instance_uid ELSE b.sop_instance_uid END
           AS sop_instance_uid,
       b.sop_class_uid, b.file_name, o.uses_fallback, o.state, o.attempts,
       CASE WHEN o.status IS NULL THEN NULL ELSE printf('0x%04X', o.status) END AS last_status,
       o.error, o.created_at, o.due_at, o.refused_since, o.delivered_at
  FROM outbox o
  JOIN result_object b ON b.object_id = o.object_id
  JOIN job j ON j.job_id = o.job_id
  JOIN study s ON s.study_id = j.study_id
"""

V_EVENT = """
CREATE VIEW v_event AS
SELECT event_id, at, kind, study_instance_uid, sop_instance_uid, job_id, detail, hash
  FROM event
"""


def upgrade() -> None:
    for statement in (V_STUDY, V_INSTANCE, V_FINDING, V_DELIVERY, V_EVENT):
        op.execute(statement)
