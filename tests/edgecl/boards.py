"""Files of boards, as their kernels and systems write them: what `edgecl.facts` reads of them, and little else."""

from pathlib import Path

MEMINFO = (
    "MemTotal:       {total} kB\nMemFree:          81036 kB\nMemAvailable:   {free} kB\nSwapTotal:       {swap} kB\n"
)

MOUNTS = """\
24 30 0:22 / /proc rw,relatime shared:12 - proc proc rw
30 1 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw
55 30 179:1 / /boot/firmware rw,relatime shared:29 - vfat /dev/mmcblk0p1 rw,fmask=0022
61 30 0:37 / /tmp rw,nosuid,nodev shared:31 - tmpfs tmpfs rw
72 30 8:1 / /media/a\\040stick ro,relatime shared:40 - exfat /dev/sda1 ro
80 30 0:51 / /srv/overlaid rw,relatime - overlay overlay rw,lowerdir=/a,upperdir=/b,workdir=/c
"""

RASPBERRY_PI_4 = {
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "proc/meminfo": MEMINFO.format(total=1884224, free=1523008, swap=102396),
    "proc/cgroups": "#subsys_name\thierarchy\tnum_cgroups\tenabled\n",
    "proc/self/mountinfo": MOUNTS,
    "proc/sys/kernel/osrelease": "6.6.51+rpt-rpi-v8\n",
    "proc/sys/kernel/random/boot_id": "0b7c1c5e-7bd0-4a3e-9f58-7e1f2f4a5b60\n",
    "proc/uptime": "3671.42 14512.80\n",
    "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n",  # the firmware turns memory off
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1800000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "62316\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
    "run/systemd/system/netplan-ovs-cleanup.service": "",
    "usr/lib/systemd/journald.conf.d/40-rpi-volatile-storage.conf": "[Journal]\nStorage=volatile\n",
    "var/log/journal/.keep": "",
}
"""Raspberry Pi OS as it comes: no memory cgroup, a journal in memory, no battery, a weak power supply."""

JETSON_ORIN_NANO = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/meminfo": MEMINFO.format(total=7802968, free=6012344, swap=3901472),
    "proc/self/mountinfo": "30 1 259:1 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw\n",
    "proc/sys/kernel/osrelease": "5.15.148-tegra\n",
    "proc/sys/kernel/random/boot_id": "5d0a0c4b-0d64-4a51-8f5f-0e6a8f6f9f10\n",
    "proc/uptime": "120.11 600.02\n",
    "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma misc\n",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1728000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48968\n",
    "sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",  # whose temp gives an error while it sleeps
    "sys/class/rtc/rtc0/name": "nvvrs_pseq_rtc\n",
    "etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "run/systemd/system/netplan-ovs-cleanup.service": "",
    "run/systemd/timesync/synchronized": "",
    "var/log/journal/.keep": "",
}

DPKG_QUERY = '#!/bin/sh\n[ "$4" = "" ] && [ "$3" = nvidia-jetpack ] && echo "6.2.1+b38"\n'
VCGENCMD = '#!/bin/sh\n[ "$1" = get_throttled ] && echo "throttled=0x20000"\n'
SYSTEMCTL = """#!/bin/sh
if [ "$1" = --user ]; then echo LoadState=not-found; echo ActiveState=inactive; exit 0; fi
echo LoadState=loaded
echo ActiveState=failed
"""


def write(root: Path, *trees: dict[str, str]) -> Path:
    """The files below a root; those in usr/bin may be run."""
    for tree in trees:
        for name, text in tree.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            if name.startswith("usr/bin/"):
                path.chmod(0o755)
    return root
