// pm2: `pm2 start scripts/ecosystem.config.cjs`, `pm2 logs sn17-miner`, `pm2 stop sn17-miner`.
//
// Change the two paths below, or give them in the environment. Every setting of config.toml can also
// stand under `env` as SN17_SECTION__KEY; the wallet's password goes into a file (wallet.password_file),
// not here: pm2 shows and saves its environment.
const path = require("path");

const home = path.resolve(__dirname, "..");
const binary = process.env.SN17_BINARY || path.join(home, "target/release/sn17-miner");
const config = process.env.SN17_CONFIG || path.join(home, "config.toml");

module.exports = {
  apps: [
    {
      name: "sn17-miner",
      script: binary,
      interpreter: "none",
      args: ["run", "--config", config],
      // Relative paths in the configuration (wallet.path, paths.out) count from here.
      cwd: path.dirname(config),
      exec_mode: "fork",
      instances: 1,

      // The log goes to ~/.pm2/logs/sn17-miner-out.log, pm2's own place, with its own times:
      //   grep "Feedback from" ~/.pm2/logs/sn17-miner-out.log
      merge_logs: true,

      // A submission under way may take the validator a minute to score. pm2 sends SIGINT, the agent
      // finishes within the grace and pm2 kills only after that. Both values belong together.
      kill_timeout: 80000,
      env: { SN17_SHUTDOWN__GRACE: "75s" },

      // Started again after a crash, soon at first and then at most every 15 s, without end.
      // 0: told to stop; 2, 64: arguments or configuration are wrong, and stay wrong (pm2 then shows
      // "waiting restart" all the same, and does not restart it).
      autorestart: true,
      exp_backoff_restart_delay: 500,
      stop_exit_codes: [0, 2, 64],
      watch: false,
      vizion: false,
    },
  ],
};
