// What Apple's system has and Linux lacks, with the same signatures.
import Dispatch
import Foundation
import Glibc
import StandIn

extension URL {
    static var cachesDirectory: URL { FileManager.default.temporaryDirectory.appendingPathComponent("Caches") }
    static var applicationSupportDirectory: URL {
        FileManager.default.temporaryDirectory.appendingPathComponent("Application Support")
    }
}

extension ProcessInfo {
    enum ThermalState: Int, Sendable {
        case nominal
        case fair
        case serious
        case critical
    }

    /// As warm as a test says.
    var thermalState: ThermalState { ThermalState(rawValue: StandIn.shared.figure("thermal state")) ?? .critical }
    var isLowPowerModeEnabled: Bool { StandIn.shared.figure("low power") > 0 }
}

final class DispatchSerialQueue: SerialExecutor, @unchecked Sendable {
    private let queue: DispatchQueue

    init(label: String, qos: DispatchQoS = .unspecified) { queue = DispatchQueue(label: label, qos: qos) }

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        queue.async { job.runSynchronously(on: self.asUnownedSerialExecutor()) }
    }

    func asUnownedSerialExecutor() -> UnownedSerialExecutor { UnownedSerialExecutor(ordinary: self) }
}

func autoreleasepool<E, Result: ~Copyable>(invoking body: () throws(E) -> Result) throws(E) -> Result { try body() }

typealias natural_t = UInt32
typealias integer_t = Int32
typealias mach_msg_type_number_t = natural_t
typealias task_flavor_t = natural_t
typealias kern_return_t = Int32
typealias mach_port_t = natural_t

let KERN_SUCCESS: kern_return_t = 0
let TASK_VM_INFO: Int32 = 22
let mach_task_self_: mach_port_t = 0

struct task_vm_info_data_t {
    var phys_footprint: UInt64 = 0
    var ledger_phys_footprint_peak: Int64 = 0
}

func task_info(
    _ task: mach_port_t,
    _ flavor: task_flavor_t,
    _ info: UnsafeMutablePointer<integer_t>?,
    _ count: UnsafeMutablePointer<mach_msg_type_number_t>?
) -> kern_return_t {
    var usage = rusage()
    guard Glibc.getrusage(0, &usage) == 0, let info else { return 1 }
    let bytes = 1024 * Int64(usage.ru_maxrss)
    info.withMemoryRebound(to: task_vm_info_data_t.self, capacity: 1) {
        $0.pointee = task_vm_info_data_t(phys_footprint: UInt64(bytes), ledger_phys_footprint_peak: bytes)
    }
    return KERN_SUCCESS
}

extension ProcessInfo {
    /// The version that a test says, 26 if it says none: Linux counts its own.
    var operatingSystemVersion: OperatingSystemVersion {
        let major = StandIn.shared.figure("system version")
        return OperatingSystemVersion(majorVersion: major > 0 ? major : 26, minorVersion: 0, patchVersion: 0)
    }

    func isOperatingSystemAtLeast(_ version: OperatingSystemVersion) -> Bool {
        operatingSystemVersion.majorVersion >= version.majorVersion
    }
}
