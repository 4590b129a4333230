BEGIN TRANSACTION;
CREATE TABLE adapter_promotions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    version INTEGER NOT NULL
);
INSERT INTO "adapter_promotions" VALUES(1,1.79590587898006486889e+09,1);
CREATE TABLE adapter_versions (
    version INTEGER PRIMARY KEY AUTOINCREMENT,
    folder TEXT NOT NULL,
    state TEXT NOT NULL
);
INSERT INTO "adapter_versions" VALUES(1,'policy-v1-2bf8776c29d7','promoted');
CREATE TABLE entropy_baselines (key TEXT PRIMARY KEY, time REAL NOT NULL, estimate TEXT NOT NULL);
INSERT INTO "entropy_baselines" VALUES('key',1.79590587878083825113e+09,'{"mean":2.0,"low":1.95,"high":2.05,"tokens":1000,"sequences":32}');
CREATE TABLE entropy_lengths (key TEXT PRIMARY KEY, time REAL NOT NULL, max_tokens INTEGER NOT NULL);
INSERT INTO "entropy_lengths" VALUES('key',1.79590587878328657145e+09,64);
CREATE TABLE entropy_tails (key TEXT PRIMARY KEY, moments TEXT NOT NULL);
INSERT INTO "entropy_tails" VALUES('key','{"gram": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], "cross": [0.0, 0.0, 0.0], "draws": 0.0}');
CREATE TABLE entropy_windows (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    version INTEGER NOT NULL,
    key TEXT NOT NULL,
    window TEXT NOT NULL
);
INSERT INTO "entropy_windows" VALUES(1,1.7959058787669041156e+09,0,'key','{"model":"base","seed":0,"seconds":1.0,"estimate":{"mean":1.9,"low":1.8499999999999999,"high":1.95,"tokens":1000,"sequences":32},"monte_carlo":{"mean":1.9,"low":1.8499999999999999,"high":1.95,"tokens":1000,"sequences":32},"truncated":{"mean":1.9,"low":1.8499999999999999,"high":1.95,"tokens":1000,"sequences":32},"lower":1.9,"upper":null,"distinct":1.0,"by_position":[],"time":1795905878.766904,"version":0,"source":"schedule","verdict":"ok","detector":{"version":0,"verdict":"ok","low":0,"high":0,"run":{"lowest":null,"recent":[],"stable":null}},"baseline":2.0,"ratio":0.95,"threshold":1.0}');
INSERT INTO "entropy_windows" VALUES(2,1.79590587877548456185e+09,0,'key','{"model":"base","seed":0,"seconds":1.0,"estimate":{"mean":0.4,"low":0.35000000000000003,"high":0.45,"tokens":1000,"sequences":32},"monte_carlo":{"mean":0.4,"low":0.35000000000000003,"high":0.45,"tokens":1000,"sequences":32},"truncated":{"mean":0.4,"low":0.35000000000000003,"high":0.45,"tokens":1000,"sequences":32},"lower":0.4,"upper":null,"distinct":1.0,"by_position":[],"time":1795905878.7754846,"version":0,"source":"schedule","verdict":"collapsed","detector":{"version":0,"verdict":"collapsed","low":0,"high":0,"run":{"lowest":null,"recent":[],"stable":null}},"baseline":2.0,"ratio":0.2,"threshold":1.0}');
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    trigger TEXT NOT NULL,
    record TEXT NOT NULL
);
INSERT INTO "jobs" VALUES(1,'reheat-404e4116','succeeded','manual','{"job":{"phase":"","step":0,"steps":100,"done":0,"of":0,"metrics":{},"job_id":"reheat-404e4116","kind":"reheat","status":"succeeded","trigger":"manual","created_at":1795905878.8278894,"started_at":1795905878.8785303,"finished_at":1795905878.9879804,"parent_version":0,"attempt":1,"version":1,"request":{"tau":1.5,"kind":"reheat"},"error":null,"gates":[{"name":"entropy","outcome":"passed","detail":"1.700 [1.650, 1.750] nats per token, target 1.700 within 15%: [1.445, 1.955]"},{"name":"accuracy","outcome":"passed","detail":"50.0% -> 50.0% of 48 problems, avg@1: lost +0.0%, 90% interval [-3.3%, +3.3%], tolerance 5.0%"},{"name":"delivery","outcome":"passed","detail":"promoted without proof"}]},"spec":{"preset":null,"max_tokens":48,"warmup_steps":3,"max_grad_norm":1.0,"remedy":"ts_opsd","tau":1.5,"target_ratio":null,"target_entropy":1.7,"steps":100,"teacher":"live","divergence":"forward_kl","min_p":null,"learning_rate":null,"prompts_per_step":16,"refresh_every":1,"towards":null,"bonus":0.01,"hot_temperature":1.5,"signal_problems":128,"signal_samples":16,"job_id":"reheat-404e4116","parent_version":0,"parent_adapter":null,"model_path":"/srv/reheatd/model","gateway_url":"http://127.0.0.1:8000","output_dir":"/srv/reheatd/jobs/reheat-404e4116","lora":{"rank":16,"alpha":32.0,"target_modules":["q_proj","k_proj","v_proj","o_proj","gate_proj","up_proj","down_proj"]},"task":{"path":null,"reward":"numeric","reward_timeout_s":5.0,"eval_count":128,"eval_samples":8,"eval_temperature":1.0,"eval_top_p":0.7,"eval_max_tokens":48},"probes":{"probes":null,"probe_count":32,"top_k":20,"confidence":0.95,"max_tokens":64,"digest":"these prompts"},"report_rollouts":24,"rollouts_kept":2000,"retry_s":180.0,"parent_entropy":null,"parent_accuracy":null,"base_accuracy":null,"reference_answers":null,"seed":0,"kind":"reheat","towards_adapter":null,"rl":{"preset":null,"max_tokens":48,"warmup_steps":3,"max_grad_norm":1.0,"steps":20,"prompts_per_step":4,"group_size":4,"learning_rate":0.0001,"temperature":1.0,"patience":10,"epochs":1,"minibatches":1,"clip_low":0.2,"clip_high":0.28,"importance_cap":2.0,"normalise_std":false,"normalisation":"tokens","max_resamples":2,"mask_truncated":false,"kl_coef":0.0,"entropy_bonus":0.0,"bonus_target":null},"places":[]},"submitted":true,"begun":true,"event_id":"1","result":{"adapter_dir":"/srv/reheatd/jobs/reheat-404e4116/result","report_dir":null,"steps":100,"tau":null,"entropy_before":{"mean":1.0,"low":0.95,"high":1.05,"tokens":1000,"sequences":32},"entropy_after":{"mean":1.7,"low":1.65,"high":1.75,"tokens":1000,"sequences":32},"accuracy_before":{"value":0.5,"low":0.36389098932037767,"high":0.6361090106796223,"problems":48,"samples":1,"solved":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0],"problem_set":"the first 48","pass_at":[{"k":1,"value":0.5,"low":0.36389098932037767,"high":0.6361090106796223}]},"accuracy_after":{"value":0.5,"low":0.36389098932037767,"high":0.6361090106796223,"problems":48,"samples":1,"solved":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0],"problem_set":"the first 48","pass_at":[{"k":1,"value":0.5,"low":0.36389098932037767,"high":0.6361090106796223}]},"accuracy_base":null,"proof":[],"metrics":{},"stopped":"target","why_stopped":null,"updates":null,"place":null,"remedy":null,"factor":null,"signal_before":null,"signal_after":null,"alternatives":[],"seconds":1.0},"cancel_requested":false,"rollout_adapters":[]}');
INSERT INTO "jobs" VALUES(10,'rl-c3c7e89e','queued','manual','{"job":{"phase":"","step":0,"steps":0,"done":0,"of":0,"metrics":{},"job_id":"rl-c3c7e89e","kind":"rl","status":"queued","trigger":"manual","created_at":1795905878.992467,"started_at":null,"finished_at":null,"parent_version":1,"attempt":1,"version":null,"request":{"steps":3,"kind":"rl"},"error":null,"gates":[]},"spec":null,"submitted":false,"begun":false,"event_id":"0","result":null,"cancel_requested":false,"rollout_adapters":[]}');
CREATE TABLE journal (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    event TEXT NOT NULL,
    from_state TEXT NOT NULL,
    to_state TEXT NOT NULL,
    reason TEXT NOT NULL,
    job_id TEXT,
    version INTEGER
);
INSERT INTO "journal" VALUES(1,1.79590587885183358197e+09,'transition','serving','reheating','reheat-404e4116 (manual) dispatched from policy-v0','reheat-404e4116',NULL);
INSERT INTO "journal" VALUES(2,1.79590587888840222353e+09,'transition','reheating','gating','reheat-404e4116 trained 100 steps, stopped by target','reheat-404e4116',NULL);
INSERT INTO "journal" VALUES(3,1.79590587896366786959e+09,'transition','gating','swapping','policy-v1 passed the gates','reheat-404e4116',1);
INSERT INTO "journal" VALUES(4,1.79590587947953367236e+09,'promoted','swapping','swapping','policy-v1 by reheat-404e4116 is promoted','reheat-404e4116',1);
INSERT INTO "journal" VALUES(5,1.79590587898823475835e+09,'transition','swapping','serving','policy-v1 by reheat-404e4116 is promoted','reheat-404e4116',1);
CREATE TABLE learning_steps (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run INTEGER NOT NULL,
    job_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    job_step INTEGER NOT NULL,
    step TEXT NOT NULL
);
INSERT INTO "learning_steps" VALUES(1,1,'rl-1',0,1,'{"time":1795905878.8196173,"number":1,"groups":4.0,"varied":2.0,"all_fail":1.0,"all_pass":1.0,"reward":null,"grad_norm":null,"stalled":false}');
CREATE TABLE live_sums (
    run TEXT PRIMARY KEY,
    time REAL NOT NULL,
    moments TEXT NOT NULL
);
CREATE TABLE live_windows (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    version TEXT NOT NULL,
    source TEXT NOT NULL,
    window TEXT NOT NULL
);
INSERT INTO "live_windows" VALUES(1,1.79590587880982875818e+09,'policy-v0','live','{"time":1795905878.8098288,"version":"policy-v0","source":"live","measured_by":"tap","estimate":{"mean":1.25,"low":1.2,"high":1.3,"tokens":1000,"sequences":32},"by_position":[],"parent":null,"step":null}');
CREATE INDEX jobs_by_status ON jobs (status);
CREATE INDEX learning_steps_by_run ON learning_steps (run);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('entropy_windows',2);
INSERT INTO "sqlite_sequence" VALUES('live_windows',1);
INSERT INTO "sqlite_sequence" VALUES('learning_steps',1);
INSERT INTO "sqlite_sequence" VALUES('jobs',10);
INSERT INTO "sqlite_sequence" VALUES('journal',5);
INSERT INTO "sqlite_sequence" VALUES('adapter_versions',1);
INSERT INTO "sqlite_sequence" VALUES('adapter_promotions',1);
COMMIT;
