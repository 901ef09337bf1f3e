"""Every control of the hardening suite is seen to fail: one defect in a healthy guest turns exactly it red."""

from __future__ import annotations

import hardening_answers as more
import pytest
from hardening_answers import Edit, add, parameter, sub
from hardening_bench import CONTROLS, Texts, checks, flavour_named, healthy, outcomes
from seatrial.policy.judge import Outcome


def setting(keyword: str, value: str) -> tuple[str, Edit]:
    return "sshd-settings", sub(rf"^{keyword} .*$", f"{keyword} {value}")


def rule_in_front(condition: str) -> Edit:
    """Let in what fits ``condition``, before any other rule at input."""
    rule = (
        '{"rule": {"family": "inet", "table": "filter", "chain": "input", "handle": 99, '
        f'"expr": [{condition}, {{"accept": null}}]}}}}, '
    )
    return lambda text: text.replace('{"rule": ', rule + '{"rule": ', 1)


OPEN_FILE = "81b6 root root /etc/mutant.conf"
DEFECTS: list[tuple[str, str, Edit]] = [
    ("acct-uid0-only-root", "passwd", sub("^daemon:x:1:1:daemon", "daemon:x:0:1:daemon")),
    ("acct-gid0-only-root", "passwd", sub("^nobody:x:65534:65534", "nobody:x:65534:0")),
    ("acct-gid0-only-root", "group", sub("^root:x:0:$", "root:x:0:nobody")),
    ("acct-unique-ids", "passwd", add("clone:x:1:65534::/:/usr/sbin/nologin")),
    ("acct-unique-ids", "group", add("clone:x:42:")),
    ("acct-shadowed", "account-files", sub("^/etc/passwd:games:x:", "/etc/passwd:games:$1$aa$bb:")),
    ("acct-no-empty-password", "account-files", sub(r"^/etc/shadow:games:\*:", "/etc/shadow:games::")),
    ("acct-no-default-password", "account-files", sub(r"^/etc/shadow:games:\*:", "/etc/shadow:games:$y$j9T$a$b:")),
    ("acct-root-locked", "account-files", sub(r"^/etc/shadow:root:!\*:", "/etc/shadow:root:$y$j9T$a$b:")),
    ("acct-no-baked-keys", "lines", add("/home/seatrial/.ssh/authorized_keys:ssh-ed25519 AAAAC3Nz vendor@build")),
    ("acct-no-baked-keys", "lines", add("/home/seatrial/.ssh/authorized_keys:ssh-ed25519 AAAAC3Nz seatrial-run")),
    ("acct-no-baked-keys", "lines", add("/root/.ssh/authorized_keys:ssh-ed25519 AAAAC3Nz seatrial-run")),
    ("acct-no-baked-keys", "brought", add("stored /etc/credstore/ssh.authorized_keys.root")),
    ("acct-no-autologin", "brought", add("/etc/systemd/system/g@.service.d/a.conf:SetCredential=agetty.autologin:x")),
    ("acct-root-path", "states", add("41ed nobody root /usr/local")),
    ("acct-no-baked-keys", "sshd-settings", sub("^trustedusercakeys none", "trustedusercakeys /etc/ssh/ca.pub")),
    ("acct-system-nologin", "passwd", sub("^daemon:(.*):/usr/sbin/nologin", r"daemon:\1:/bin/sh")),
    ("acct-system-nologin", "passwd", sub("^daemon:(.*):/usr/sbin/nologin", r"daemon:\1:/opt/bin/nologin")),
    ("acct-interactive-allowlist", "passwd", add("vendor:x:1001:1000::/home/vendor:/bin/bash")),
    ("acct-no-plus-entries", "account-files", add("/etc/passwd:+::::::", "/etc/shadow:+::::::::")),
    ("acct-no-plus-entries", "passwd", add("+::::::")),
    ("acct-no-plus-entries", "group", add("+:::")),
    ("acct-groups-consistent", "group", sub("^shadow:x:42:$", "shadow:x:42:nobody")),
    ("acct-groups-consistent", "passwd", sub("^games:x:5:60", "games:x:5:61")),
    (
        "acct-home-perms",
        "states",
        sub("^41c0 seatrial seatrial /home/seatrial$", "41ed seatrial seatrial /home/seatrial"),
    ),
    ("acct-home-perms", "states", sub("^41c0 seatrial seatrial /home/seatrial$\n", "")),
    ("acct-home-perms", "acls", sub("^drwx------ (.* /root)$", r"drwxr-x---+ \1")),
    ("acct-dotfiles", "states", add("81a4 root root /root/.rhosts")),
    ("acct-dotfiles", "states", add("81a4 backup backup /var/backups/.shosts")),
    ("acct-dotfiles", "states", sub("^81a4 root root /root/.profile", "81a4 nobody root /root/.profile")),
    ("acct-dotfiles", "states", sub("^81a4 root root /root/.profile", "81b4 root root /root/.profile")),
    ("acct-hosts-equiv-absent", "states", add("81a4 root root /etc/hosts.equiv")),
    ("acct-password-aging", "login-defs", sub("^PASS_MAX_DAYS.*", "PASS_MAX_DAYS 99999")),
    ("acct-password-aging", "login-defs", sub("^PASS_WARN_AGE.*\n", "")),
    ("acct-password-aging", "login-defs", sub("^PASS_MAX_DAYS.*", r"\g<0> # a year")),
    ("acct-no-default-password", "shadow", add("nobody:$6$salt$hash:20000::::::")),
    ("acct-no-empty-password", "shadow", add("nobody::20000::::::")),
    ("acct-pw-hash", "pam-stacks", sub("pam_unix.so obscure", "pam_unix.so md5 obscure")),
    (
        "acct-faillock",
        "pam-stacks",
        sub("(/etc/pam.d/common-auth:)(auth.*authfail)", r"\1auth requisite pam_deny.so\n\1\2"),
    ),
    ("acct-faillock", "pam-stacks", sub(r"common-auth:auth\t.success=2 default=ignore.", "common-auth:auth requisite")),
    ("acct-umask", "user-shell", sub("umask=0027", "umask=0002")),
    ("acct-umask", "login-defs", sub("^UMASK.*", "UMASK 022")),
    ("acct-umask", "login-shell", sub("umask=0027", "umask=0022")),
    ("acct-pam-no-nullok", "pam-stacks", sub("pam_unix.so obscure", "pam_unix.so nullok obscure")),
    ("acct-pw-hash", "login-defs", sub("^ENCRYPT_METHOD.*", "ENCRYPT_METHOD MD5")),
    ("acct-pw-hash", "account-files", sub(r"^/etc/shadow:games:\*:", "/etc/shadow:games:!$1$a$b:")),
    ("acct-sudo-auth", "sudoers", add("/etc/sudoers.d/zz:nobody ALL=(ALL) NOPASSWD: ALL")),
    ("acct-sudo-auth", "sudoers", add("/etc/sudoers.d/90-cloud-init-users:other ALL=(ALL) NOPASSWD: ALL")),
    ("acct-sudo-auth", "sudoers", add("/etc/sudoers.d/zz:Defaults !authenticate")),
    ("acct-sudo-auth", "sudoers", add("/etc/sudoers.d/zz:Defaults exempt_group=sudo")),
    ("acct-sudo-auth", "sudoers", add("/etc/sudoers.d/zz:Defaults:deploy, ops !authenticate")),
    ("acct-sudo-hygiene", "sudoers", sub(r"Defaults\s+use_pty", "Defaults:backup use_pty")),
    ("acct-sudo-hygiene", "sudoers", add("/etc/sudoers.d/zz:Defaults: deploy !use_pty")),
    ("acct-sudo-hygiene", "sudoers", add("/etc/sudoers.d/zz:Defaults!/usr/bin/id timestamp_timeout=-1")),
    ("acct-sudo-hygiene", "sudoers", add("/etc/sudoers.d/zz:Defaults !use_pty, timestamp_timeout=-1")),
    ("acct-sudo-hygiene", "sudoers", sub("^/etc/sudoers:Defaults\tsecure_path.*\n", "")),
    ("acct-sudo-hygiene", "sudoers", add("/etc/sudoers.d/x:Defaults secure_path=/tmp:/usr/bin")),
    ("acct-sudo-hygiene", "sudoers", add("/etc/sudoers.d/x:Defaults:seatrial secure_path=bin:/usr/bin")),
    ("acct-root-path", "login-shell", sub("path=", "path=.:")),
    ("acct-root-path", "states", sub("^41ed root root /usr/local/bin", "41fd root staff /usr/local/bin")),
    (
        "acct-no-autologin",
        "autologin",
        add("/etc/systemd/system/x.d/m.conf:ExecStart=-/sbin/agetty --autologin root %I"),
    ),
    ("acct-no-autologin", "cmdline", sub("$", " flatcar.autologin")),
    ("acct-no-autologin", "credentials", add("agetty.autologin")),
    ("acct-no-autologin", "credentials", add("tty.serial.ttyS0.agetty.autologin")),
    ("acct-no-autologin", "cmdline", sub("$", " systemd.set_credential=tty.virtual.tty1.login.noauth:yes")),
    (
        "ssh-effective-config-parses",
        "sshd-complaint",
        add("/etc/ssh/sshd_config line 1: Bad configuration option: PermitRotLogin"),
    ),
    ("ssh-config-perms", "states", sub("^8180 root root /etc/ssh/sshd_config$", "81b6 root root /etc/ssh/sshd_config")),
    ("ssh-hostkey-perms", "acls", sub("^(-rw-------) (.* /etc/ssh/ssh_host_ed25519_key)$", r"\1+ \2")),
    ("ssh-hostkey-perms", "states", sub("^8180 root root (/etc/ssh/ssh_host_ed25519_key)$", r"81a4 root root \1")),
    ("ssh-hostkeys-per-instance", "host-keys", sub("^1795476002", "1795475583")),
    (
        "ssh-hostkey-strong",
        "host-keys",
        add("1795476002 /etc/ssh/ssh_host_rsa_key 2048 SHA256:abc root@candidate (RSA)"),
    ),
    ("ssh-hostkey-strong", "host-keys", lambda text: text * 2),
    ("ssh-root-login", *setting("permitrootlogin", "yes")),
    ("ssh-no-password-auth", *setting("passwordauthentication", "yes")),
    ("ssh-no-password-auth", *setting("kbdinteractiveauthentication", "yes")),
    ("ssh-empty-passwords", *setting("permitemptypasswords", "yes")),
    ("ssh-userenv", *setting("permituserenvironment", "yes")),
    ("ssh-host-based", *setting("ignorerhosts", "no")),
    ("ssh-max-auth-tries", *setting("maxauthtries", "50")),
    ("ssh-max-startups", *setting("maxstartups", "10:30:100")),
    ("ssh-login-grace", *setting("logingracetime", "0")),
    ("ssh-client-alive", *setting("clientaliveinterval", "0")),
    ("ssh-forwarding", *setting("disableforwarding", "no\nx11forwarding yes")),
    ("ssh-forwarding", *setting("x11forwarding", "yes")),
    ("ssh-forwarding", *setting("permittunnel", "yes")),
    ("ssh-strict-modes", *setting("strictmodes", "no")),
    ("ssh-ciphers", *setting("ciphers", "aes256-ctr,3des-cbc")),
    ("ssh-macs", *setting("macs", "hmac-sha2-256-etm@openssh.com,hmac-md5")),
    ("ssh-kex", *setting("kexalgorithms", "curve25519-sha256,diffie-hellman-group1-sha1")),
    ("acct-invalid-shell-locked", "account-files", sub(r"^/etc/shadow:games:\*:", "/etc/shadow:games:$y$j9T$a$b:")),
    ("acct-nologin-not-a-shell", "shells", add("/usr/sbin/nologin")),
    ("acct-inactive-lock", "new-accounts", sub("^INACTIVE=30", "INACTIVE=-1")),
    ("acct-inactive-lock", "new-accounts", sub("^INACTIVE=30", "INACTIVE=90")),
    ("acct-shell-timeout", "shell-timeout", sub("^seatrial-timeout=900", "seatrial-timeout=none")),
    ("acct-shell-timeout", "shell-timeout", sub("=900", "=86400")),
    ("acct-shell-timeout", "shell-timeout", sub("=900", "=0")),
    ("acct-shell-timeout", "shell-timeout", sub("^seatrial-exported=900", "seatrial-exported=")),
    ("acct-shell-timeout", "shell-timeout", add("seatrial-unset")),
    ("acct-pw-quality", "security", sub("minlen = 14", "minlen = 8")),
    ("acct-pw-quality", "security", sub(".*:minclass = 4\n", "")),
    ("acct-pw-quality", "security", sub(".*:maxrepeat = 3\n", "")),
    ("acct-pw-quality", "security", sub("enforcing = 1", "enforcing = 0")),
    ("acct-pw-quality", "security", sub("dictcheck = 1", "dictcheck = 0")),
    ("acct-pw-quality", "pam-stacks", sub("requisite(\\s+pam_pwquality)", r"optional\1")),
    ("acct-pw-quality", "pam-stacks", sub("pam_pwquality.so retry=3", "pam_pwquality.so minlen=6")),
    ("acct-pw-quality", "dictionary", lambda _text: ""),
    ("acct-faillock", "security", sub("deny = 5", "deny = 50")),
    ("acct-faillock", "pam-stacks", sub("(pam_faillock.so preauth)", r"\1 conf=/etc/security/mine.conf")),
    ("acct-faillock", "security", sub("unlock_time = 900", "unlock_time = 60")),
    ("acct-faillock", "security", sub(".*:even_deny_root\n", "")),
    ("acct-faillock", "pam-stacks", sub(".*pam_faillock.so authfail\n", "")),
    ("acct-faillock", "pam-stacks", sub(".*pam_faillock.so preauth\n", "")),
    ("acct-pw-history", "security", sub("remember = 24", "remember = 5")),
    ("acct-pw-history", "security", sub(".*:enforce_for_root\n", "")),
    ("acct-pw-history", "pam-stacks", sub(".*pam_pwhistory.*\n", "")),
    ("acct-sudo-no-targetpw", "sudoers", add("/etc/sudoers.d/zz:Defaults targetpw")),
    ("acct-sudo-no-targetpw", "sudoers", add("/etc/sudoers.d/zz:Defaults:bob env_reset, rootpw")),
    ("acct-su-restricted", "pam-stacks", sub("^/etc/pam.d/su:auth +required +pam_wheel.*\n", "")),
    ("acct-su-restricted", "pam-stacks", sub("pam_wheel.so use_uid", "pam_wheel.so deny use_uid")),
    ("acct-su-restricted", "group", sub("^sudo:x:27:", "sudo:x:27:games")),
    ("ssh-pubkey-on", *setting("pubkeyauthentication", "no")),
    ("ssh-gssapi-kerberos", *setting("gssapiauthentication", "yes")),
    ("ssh-gssapi-kerberos", *setting("kerberosauthentication", "yes")),
    ("ssh-pam", *setting("usepam", "no")),
    ("ssh-max-sessions", *setting("maxsessions", "100")),
    ("ssh-client-alive-azure", *setting("clientaliveinterval", "300")),
    ("ssh-log-level", *setting("loglevel", "QUIET")),
    ("ssh-access-limited", "sshd-settings", sub("^denyusers root\n", "")),
    ("ssh-access-limited", "sshd-settings", sub("^denyusers root", "allowusers *")),
    ("ssh-hostkey-algs", *setting("hostkeyalgorithms", "ssh-ed25519,ssh-rsa")),
    ("ssh-moduli", "moduli", sub("^3071 ", "2047 ")),
    ("ssh-banner", *setting("banner", "none")),
    ("ssh-banner", *setting("banner", "/etc/no-such-file")),
    ("ssh-banner", *setting("debianbanner", "yes")),
    ("ssh-banner", "lines", sub("^/etc/issue.net:.*", "/etc/issue.net:Welcome to Debian")),
    ("ssh-banner", "lines", sub("^/etc/issue.net:.*", r"/etc/issue.net:Authorised use only \\r")),
    ("ssh-service-state", "unit-files", sub("^ssh.service +enabled", "ssh.service disabled")),
    ("ssh-service-state", "unit-files", sub("^ssh.socket +disabled", "ssh.socket enabled")),
    ("ssh-service-state", "units", add("sshd-unix-local.socket loaded active listening OpenSSH Server Socket")),
    ("fs-tmp", "mountinfo", sub(".* / /tmp .*\n", "")),
    ("fs-tmp", "mountinfo", sub("(/ /tmp .*),noexec", r"\1")),
    ("fs-dev-shm", "mountinfo", sub("(/ /dev/shm .*),noexec", r"\1")),
    ("fs-var-tmp", "mountinfo", sub("(/var/tmp rw),nosuid", r"\1")),
    ("fs-sticky", "walk", sub("^43ff root root /tmp$", "41ff root root /tmp")),
    ("fs-world-writable-files", "walk", add(OPEN_FILE)),
    ("fs-unowned", "walk", add("81a4 UNKNOWN root /srv/left-behind")),
    ("fs-suid-allowlist", "walk", add("89ed root root /srv/.f")),
    ("fs-suid-allowlist", "walk", sub("^89ed root root /usr/bin/su$", "89ed root root /usr/bin/su \\(a line break\\)")),
    ("fs-sgid-allowlist", "walk", add("85ed root mail /usr/bin/less")),
    ("fs-filecaps-allowlist", "capabilities", add("/usr/bin/python3.13 cap_setuid=ep")),
    ("fs-account-db-perms", "states", add("81a4 root root /etc/shadow.bak")),
    ("fs-account-db-perms", "acls", sub("^(-rw-r-----) (.* /etc/shadow)$", r"\1+ \2")),
    ("fs-account-db-perms", "states", sub("^81a0 root shadow /etc/shadow$", "81a4 root shadow /etc/shadow")),
    ("fs-account-db-perms", "states", sub("^81a4 root root /etc/group$\n", "")),
    ("fs-cron-perms", "states", sub("^41c0 root root /etc/cron.d$", "41ff root root /etc/cron.d")),
    (
        "fs-bootcfg-perms",
        "states",
        sub("^81c0 root root /boot/loader/loader.conf", "81ed root root /boot/loader/loader.conf"),
    ),
    ("fs-system-dirs-perms", "walk", add("81fd root staff /usr/local/bin/tool")),
    ("fs-system-dirs-perms", "walk", add("81a4 seatrial seatrial /etc/systemd/system/agent.service")),
    ("fs-system-dirs-perms", "walk", add("81b4 root staff /etc/profile.d/agent.sh")),
    ("fs-system-dirs-perms", "linked", add("81a4 seatrial seatrial /etc/profile.d/agent.sh")),
    ("fs-no-history", "states", add("8180 root root /root/.bash_history")),
    ("net-listeners-tcp", "listeners", add('tcp LISTEN 0 1 0.0.0.0:4444 0.0.0.0:* users:(("nc",pid=9,fd=3))')),
    ("net-listeners-tcp", "listeners", sub(r'"sshd",pid=500,fd=6', '"nc",pid=500,fd=6')),
    ("net-listeners-udp", "listeners", add('udp UNCONN 0 0 0.0.0.0:161 0.0.0.0:* users:(("nc",pid=9,fd=3))')),
    ("fs-var-opts", "mountinfo", sub("(/var/log /var/log rw.*),noexec", r"\1")),
    ("fs-var-opts", "mountinfo", sub("(/var /var rw),nosuid", r"\1")),
    ("fs-home-opts", "mountinfo", sub("(/home /home rw,nosuid),nodev", r"\1")),
    ("fs-root-opts-immutable", "mountinfo", sub("(/ / rw),nosuid", r"\1")),
    ("fs-boot-opts", "mountinfo", sub("(/boot rw,nosuid,nodev),noexec", r"\1")),
    ("fs-boot-opts", "mountinfo", sub("fmask=0077", "fmask=0022")),
    ("fs-proc-hidepid", "mountinfo", sub(",hidepid=invisible", "")),
    ("fs-proc-hidepid", "mountinfo", add("99 64 0:60 / /run/a rw - proc proc rw")),
    ("fs-proc-hidepid", "owners-seen", add("0")),
    ("fs-issue-motd", "greetings", add("/etc/motd:Debian GNU/Linux comes with no warranty")),
    ("fs-issue-motd", "greetings", sub(r"\\l", r"\\r")),
    ("fs-issue-motd", "states", sub("^81a4 root root /etc/issue$", "81b6 root root /etc/issue")),
    ("fs-kernel-symbols-perms", "kernel-reads", add("/boot/System.map-6.12")),
    ("fs-kernel-symbols-perms", "kallsyms", add("ffffffff81000000 T _text")),
    ("fs-dead-links", "names", add("dangling /usr/lib/libmutant.so")),
    ("fs-odd-names", "names", add("odd /etc/evil?name")),
    ("fs-no-build-residue", "residue", add("/etc/ssl/build.key")),
    ("fs-no-os-disk-swap", "swaps", add("/var/swap file 16380 0 -2")),
    ("fs-no-automount", "mounting-rules", add('/etc/udev/rules.d/m.rules:ACTION=="add", RUN+="/bin/mount %N /mnt"')),
    ("fs-no-automount", "unit-files", add("udisks2.service enabled enabled")),
    ("net-fw-active", "unit-files", add("firewalld.service enabled enabled")),
    ("net-fw-active", "units", sub("^(nftables.service loaded) active", r"\1 inactive")),
    (
        "net-fw-default-deny",
        "ruleset",
        sub('"hook": "input", "prio": 0, "policy": "drop"', '"hook": "input", "prio": 0'),
    ),
    ("net-fw-default-deny", "ruleset", sub('"forward", "prio": 0, "policy": "drop"', '"forward", "policy": "accept"')),
    (
        "net-fw-default-deny",
        "ruleset",
        rule_in_front(
            '{"match": {"op": "==", "left": {"meta": {"key": "nfproto"}}, "right": "ipv6"}}, '
            '{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 4444}}'
        ),
    ),
    ("net-fw-loopback", "ruleset", sub('"127.0.0.0"', '"126.0.0.0"')),
    ("net-fw-loopback", "ruleset", sub('"right": "lo"', '"right": "lo1"')),
    ("net-no-llmnr-mdns", "multicast-names", add("Global: no", "Link 2 (enp0s3): yes")),
    ("net-no-llmnr-mdns", "unit-files", add("avahi-dnsconfd.service enabled enabled")),
    ("net-no-wireless-bt", "radios", add("/sys/class/bluetooth/hci0")),
    ("net-no-wireless-bt", "modules", add("cfg80211 1323008 0 - Live 0x0000000000000000")),
    ("net-no-wireless-bt", "units", add("bluetooth.service loaded active running Bluetooth service")),
    ("net-no-promisc", "links", sub('"promiscuity":0,"allmulti":0}]', '"promiscuity":1,"allmulti":0}]')),
    ("net-resolver", "resolver", lambda _text: "/etc/resolv.conf\nnameserver 192.0.2.1\n"),
    ("net-ip-forward", *parameter("net/ipv4/ip_forward", "1")),
    ("net-ip-forward", *parameter("net/ipv6/conf/enp0s3/forwarding", "1")),
    ("net-send-redirects", *parameter("net/ipv4/conf/enp0s3/send_redirects", "1")),
    ("net-accept-redirects", *parameter("net/ipv4/conf/enp0s3/accept_redirects", "1")),
    ("net-accept-redirects", *parameter("net/ipv6/conf/default/accept_redirects", "1")),
    ("net-secure-redirects", *parameter("net/ipv4/conf/all/secure_redirects", "1")),
    ("net-rp-filter", *parameter("net/ipv4/conf/enp0s3/rp_filter", "2")),
    ("net-source-route", *parameter("net/ipv6/conf/enp0s3/accept_source_route", "1")),
    ("net-log-martians", *parameter("net/ipv4/conf/default/log_martians", "0")),
    ("net-icmp-broadcast", *parameter("net/ipv4/icmp_echo_ignore_broadcasts", "0")),
    ("net-icmp-broadcast", *parameter("net/ipv4/icmp_ignore_bogus_error_responses", "0")),
    ("net-syncookies", *parameter("net/ipv4/tcp_syncookies", "0")),
    ("net-ipv6-ra", *parameter("net/ipv6/conf/enp0s3/accept_ra", "2")),
    ("net-tcp-rfc1337", *parameter("net/ipv4/tcp_rfc1337", "0")),
    ("net-route-localnet", *parameter("net/ipv4/conf/enp0s3/route_localnet", "1")),
    ("svc-no-legacy-servers", "legacy", add("/usr/bin/inetutils-telnet")),
    ("svc-no-unneeded-servers", "unit-files", add("rpcbind.socket enabled enabled")),
    ("svc-no-unneeded-servers", "units", add("nginx.service loaded active running a web server")),
    ("svc-ctrl-alt-del", "unit-files", sub("^ctrl-alt-del.target +masked", "ctrl-alt-del.target alias")),
    ("svc-ctrl-alt-del", "switched", sub("CtrlAltDelBurstAction=none", "CtrlAltDelBurstAction=reboot-force")),
    ("svc-ctrl-alt-del", "ctrl-alt-del", sub(":0$", ":1")),
    ("svc-no-debug-shell", "unit-files", sub("^debug-shell.service +masked", "debug-shell.service enabled")),
    ("svc-no-debug-shell", "cmdline", sub("$", " systemd.debug_shell=1")),
    ("svc-coredump", "core", sub(r"\|/bin/false\n0", "core\nunlimited")),
    ("svc-coredump", "core", sub(r"\|/bin/false", "|/tmp/x %p")),
    ("log-journal-active", "journald", sub("^Storage=persistent", "Storage=volatile")),
    ("log-journal-active", "units", sub("^(systemd-journald.service loaded) active", r"\1 failed")),
    ("log-journal-perms", "logs", sub("^81a0 (root systemd-journal)", r"81a4 \1")),
    ("log-var-log-perms", "logs", sub("^8180 (root root /var/log/sudo.log)", r"81a4 \1")),
    ("log-var-log-perms", "logs", add("81b6 root utmp /var/log/wtmp")),
    ("log-bounded", "journald", sub("^SystemMaxUse=64M", "SystemMaxUse=")),
    ("log-bounded", "journald", sub("^SystemMaxUse=64M", "SystemMaxUse=64MB")),
    ("log-bounded", "journald", sub("^SystemMaxUse=64M", "SystemMaxUse=8E")),
    ("log-bounded", "journald", sub("^SystemMaxUse=64M", "SystemMaxUse=1G1023M")),
    ("log-single-system", "cmdline", lambda text: f"{text.rstrip()} systemd.journald.forward_to_syslog\n"),
    ("log-journal-active", "mountinfo", add("90 1 0:50 / /var/log rw,nosuid,nodev,noexec - tmpfs tmpfs rw")),
    ("mac-lsm-stack", "lsm", sub("landlock,", "")),
    ("mac-enforcing", "apparmor", sub(r"\(enforce\)", "(complain)")),
    ("mac-enforcing", "apparmor", sub("^Y", "N")),
    ("mac-enforcing", "apparmor-mode", sub("enforce", "complain")),
    ("bin-no-preload", "states", add("81a4 root root /etc/ld.so.preload")),
    ("crypt-openssl-tls", "preloaded", lambda text: f"/etc/environment:OPENSSL_CONF=/etc/ssl/mine.cnf\n{text}"),
    ("bin-no-preload", "preloaded", lambda text: f"/proc/512/environ:LD_AUDIT=/opt/trace.so\n{text}"),
    ("bin-no-rpath", "library-folders", add("/etc/ld.so.conf.d/00-x.conf:/var/tmp/lib")),
    ("bin-no-rpath", "library-folders", add("/etc/ld.so.conf.d/00-x.conf:/usr/lib:/usr/../tmp")),
    ("bin-no-rpath", "library-folders", add("/etc/ld.so.conf:include /srv/conf/*.conf")),
    ("bin-no-preload", "preloaded", lambda text: f"/etc/environment:LD_PRELOAD=/usr/local/lib/x.so\n{text}"),
    *more.DEFECTS,
]
# A defect of these is one of another control too, and rightly: both are named.
ALSO = {
    "acct-root-locked": {"acct-no-default-password"},
    "acct-uid0-only-root": {"acct-unique-ids"},
    "acct-no-default-password": {"acct-invalid-shell-locked"},
    "acct-no-empty-password": {"acct-invalid-shell-locked"},
    "acct-invalid-shell-locked": {"acct-no-default-password"},
    "ssh-client-alive": {"ssh-client-alive-azure"},
    **more.ALSO,
}
# What belongs to a defect without being one by itself.
WITH = {
    "acct-interactive-allowlist": ("states", add("41c0 vendor vendor /home/vendor")),
    "fs-no-history": ("lines", add("/root/.bash_history:export TOKEN=abc")),
}


def test_a_healthy_guest_passes_every_control() -> None:
    seen = outcomes(healthy(), flavour_named("debian-general"))
    rest = {control: outcome for control, outcome in seen.items() if outcome is not Outcome.PASS}
    assert rest == dict.fromkeys(more.NOT_ON_DEBIAN, Outcome.NOT_APPLICABLE)


def test_every_control_has_exactly_one_check() -> None:
    assert sorted(control.id for control, _ in checks()) == sorted(control.id for control in CONTROLS)


def test_every_control_has_a_defect() -> None:
    defects = {control for control, _, _ in (*DEFECTS, *more.OF_OTHERS)}
    assert {control.id for control in CONTROLS} == defects | {"bin-cet-bti"}


@pytest.mark.parametrize(("control", "answer", "edit"), DEFECTS, ids=[f"{n}-{d[0]}" for n, d in enumerate(DEFECTS)])
def test_a_defect_turns_exactly_its_control_red(control: str, answer: str, edit: Edit) -> None:
    texts = healthy()
    texts[answer] = edit(texts.get(answer, ""))
    if control in WITH:
        other, edit = WITH[control]
        texts[other] = edit(texts[other])
    seen = outcomes(texts, flavour_named("debian-general"))
    failed = {name for name, outcome in seen.items() if outcome is Outcome.FAIL}
    assert failed - more.MAY_ALSO.get(control, set()) == {control} | ALSO.get(control, set())
    assert Outcome.ERROR not in seen.values()


@pytest.mark.parametrize(("control", "answer", "edit"), more.OF_OTHERS, ids=[d[0] for d in more.OF_OTHERS])
def test_a_defect_of_what_debian_lacks_is_found_where_a_flavour_promises_it(
    control: str, answer: str, edit: Edit
) -> None:
    texts = {**healthy(), **more.OTHER_TEXTS}
    flavour = flavour_named("debian-general")
    flavour = flavour.model_copy(update={"expect": {**flavour.expect, **more.OTHER_EXPECT}})
    before = outcomes(texts, flavour)
    texts[answer] = edit(texts[answer])
    after = outcomes(texts, flavour)
    assert before[control] in {Outcome.PASS, Outcome.FAIL}
    changed = {name for name, outcome in after.items() if outcome is not before[name]}
    assert (changed - more.OTHER_ALSO, after[control]) == ({control}, Outcome.FAIL)


def test_programs_without_the_promised_markers_fail() -> None:
    flavour = flavour_named("debian-general")
    promising = {**flavour.expect, "control-flow-markers": ("IBT", "SHSTK")}
    seen = outcomes(healthy(), flavour.model_copy(update={"expect": promising}))
    assert [control for control, outcome in seen.items() if outcome is Outcome.FAIL] == ["bin-cet-bti"]


# Of these, nothing at all is a good answer.
MAY_BE_EMPTY = more.MAY_BE_EMPTY | {
    "acls", "autologin", "brought", "capabilities", "credentials", "greetings", "kallsyms", "legacy",
    "library-folders", "lines", "linked",
    "moduli", "modules", "mounting-rules", "multicast-names", "radios", "shadow", "shells", "sshd-instances",
    "sshd-lines", "sudoers",
}  # fmt: skip
# Of these, a line more is no fault: they hold whatever is there (or the fake gives only the lines asked for).
FREE_TEXT = more.FREE_TEXT | {
    "acls", "autologin", "brought", "cmdline", "credentials", "dictionary", "legacy", "lines", "login-shell", "lsm",
    "os-release", "shell-timeout", "shells", "states", "user-shell", "sudoers",
}  # fmt: skip


@pytest.mark.parametrize("answer", sorted(healthy().keys() - MAY_BE_EMPTY))
def test_an_answer_that_says_nothing_passes_nothing_in_silence(answer: str) -> None:
    seen = outcomes({**healthy(), answer: ""}, flavour_named("debian-general"))
    assert set(seen.values()) & {Outcome.ERROR, Outcome.FAIL}


@pytest.mark.parametrize("answer", sorted(healthy().keys() - FREE_TEXT))
def test_a_line_that_cannot_be_read_is_an_error(answer: str) -> None:
    seen = outcomes({**healthy(), answer: healthy()[answer] + "\x1b[2Jnonsense\n"}, flavour_named("debian-general"))
    assert Outcome.ERROR in seen.values() or Outcome.FAIL in seen.values()


def by_credentials() -> Texts:
    """Return the answers of an immutable host: the run came in as root, by a credential."""
    texts = healthy()
    texts["passwd"] = sub("^seatrial:.*\n", "")(texts["passwd"])
    texts["walk"] = sub("/home/seatrial/.ssh", "/root/.ssh")(sub("^89ed.*\n", "")(texts["walk"]))
    texts["lines"] = sub("^/home/seatrial/", "/root/")(texts["lines"])
    texts["sudoers"] = ""
    texts["unit-files"] = sub("^(cloud|audit).*\n", "")(texts["unit-files"])
    return texts


def test_a_healthy_immutable_host_passes_or_does_not_apply() -> None:
    here = {row.id for row in CONTROLS if "immutable-host" in row.applies_to}
    everything = outcomes(by_credentials(), flavour_named("debian-immutable"))
    seen = {name: outcome for name, outcome in everything.items() if name in here}
    assert {name for name, outcome in seen.items() if outcome is Outcome.NOT_APPLICABLE} == here & {
        "acct-sudo-hygiene",
        "acct-sudo-no-targetpw",
        *more.NOT_ON_DEBIAN,
    }
    assert set(seen.values()) == {Outcome.PASS, Outcome.NOT_APPLICABLE}


@pytest.mark.parametrize("comment", ["builder@host", "seatrial-run more", ""])
def test_another_key_than_the_runs_fails_though_root_has_one(comment: str) -> None:
    texts = by_credentials()
    texts["lines"] = f"/root/.ssh/authorized_keys:ssh-ed25519 AAAAC3Nz {comment}\n"
    assert outcomes(texts, flavour_named("debian-immutable"))["acct-no-baked-keys"] is Outcome.FAIL


def test_setting_hidden_in_a_match_block_is_found() -> None:
    texts = healthy()
    texts["sshd-lines"] += "Match Address 192.0.2.0/24\n"
    texts["sshd-settings 192.0.2.1"] = sub("^permitrootlogin no", "permitrootlogin yes")(texts["sshd-settings"])
    seen = outcomes(texts, flavour_named("debian-general"))
    assert {name for name, outcome in seen.items() if outcome is Outcome.FAIL} == {"ssh-root-login"}


@pytest.mark.parametrize("locked", ["!", "!!", "!*", "*", "*NP*"])
def test_every_way_to_lock_an_account_is_fine(locked: str) -> None:
    texts = healthy()
    texts["account-files"] = sub("^/etc/shadow:root:[^:]+:.*", f"/etc/shadow:root:{locked}:1::::::")(
        texts["account-files"]
    )
    assert set(outcomes(texts, flavour_named("debian-general")).values()) == {Outcome.PASS, Outcome.NOT_APPLICABLE}


@pytest.mark.parametrize("control", ["ssh-hostkeys-per-instance", "crypt-random-seed-not-shared"])
def test_what_an_earlier_boot_of_the_same_guest_has_made_is_its_own(control: str) -> None:
    texts = healthy()
    texts["first-boot"] = "1795480000\n1795476009\n"  # rebooted; the run's key came in the first boot
    assert outcomes(texts, flavour_named("debian-general"))[control] is Outcome.PASS
    texts["first-boot"] = "1795480000\n1795480009\n"  # this is the first boot, and the image was captured after another
    assert outcomes(texts, flavour_named("debian-general"))[control] is Outcome.FAIL


def test_what_only_looks_like_a_defect_is_fine() -> None:
    texts = healthy()
    texts["logs"] += "81b4 root utmp /var/log/wtmp\n"
    texts["states"] += "8180 root root /root/.bash_history\n21b6 root root /root/.lesshst\n"
    texts["listeners"] = "/proc/net/tcp:   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 0 0\n"
    assert set(outcomes(texts, flavour_named("debian-general")).values()) == {Outcome.PASS, Outcome.NOT_APPLICABLE}
